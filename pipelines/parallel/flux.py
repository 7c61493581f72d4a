"""The packed forward of one rank: its share of the weights, of the tokens, or of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.attention import AttentionBackend
from pipelines.packing.layout import Layout, PackedBatch, RotaryTable, SegmentShape
from pipelines.parallel.mesh import RankMesh
from pipelines.parallel.ulysses import ShardedLayout, UlyssesAttention, shard_layout

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


class ParallelFlux(PackedFlux):
    """A `PackedFlux` that gives every rank of `mesh` the same result, if all call it alike.

    `transformer` holds this rank's weights (`pipelines.parallel.weights`). Only rank 0's embeds
    text and makes modulation.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        mesh: RankMesh,
        *,
        attention: str = "sdpa",
        compile: bool = False,
        compiler: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._mesh = mesh
        total = mesh.traced_total() if compile else mesh.total
        super().__init__(
            transformer,
            attention=attention,
            compile=compile,
            compiler=compiler,
            total=total if mesh.degrees.tensor > 1 else None,
        )

    def layout(self, shapes: Sequence[SegmentShape]) -> Layout:
        layout = super().layout(shapes)
        return shard_layout(layout, self._mesh) if self._mesh.degrees.ulysses > 1 else layout

    def velocity(self, batch: PackedBatch) -> torch.Tensor:
        """Predicted velocities (I, D) of every image token in the batch, on every rank.

        Each of them is taken from one rank only, so that no two ranks' latents can drift apart.
        """
        counts = self._mesh.image_counts(len(batch.img))
        if isinstance(batch.layout, ShardedLayout):
            batch = _share(batch, batch.layout)
        velocity, column = super().velocity(batch), self._mesh.column
        first = self._mesh.row * self._mesh.degrees.tensor
        begin = sum(counts[first : first + column])
        return self._mesh.gather(velocity[begin : begin + counts[self._mesh.rank]], counts)

    def _make_attention(self, name: str) -> AttentionBackend:
        inner = super()._make_attention(name)
        return UlyssesAttention(inner, self._mesh) if self._mesh.degrees.ulysses > 1 else inner


def _share(batch: PackedBatch, layout: ShardedLayout) -> PackedBatch:
    cos, sin = batch.rope
    return replace(
        batch,
        img=batch.img[layout.image],
        txt=batch.txt[layout.text],
        rope=RotaryTable(cos.index_select(0, layout.rows), sin.index_select(0, layout.rows)),
    )
