"""One FLUX.1 ControlNet over packed segments: what it says of each, block by block.

The oracle is diffusers' `FluxControlNetModel`, with the InstantX kind of input, latents of a map.

Shapes:  S image, L text tokens of a segment      d width      N forwards      D packed channels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from pipelines.flux1.modules import FluxControlNet
from pipelines.flux1.residuals import BlockSamples, image_rows, joint_rows
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import Layout, PackedBatch, RotaryTable, SegmentShape
from pipelines.packing.linear import layer_of, linear

_LAYOUTS_KEPT = 32


class MapInputs(NamedTuple):
    """What no step changes for one map of one job: `hint` (S, d) of the map, `txt` (L, d) of the
    prompt, with the mode's token before it, `vec` (N, M) modulation, and its rotary factors."""

    hint: torch.Tensor
    txt: torch.Tensor
    vec: torch.Tensor
    shape: SegmentShape
    rope: RotaryTable


class PackedControlNet(PackedFlux):
    """A ControlNet that takes packed batches. Holds no state between calls but layouts.

    Of a model of `doubles` and `singles` blocks that it stands beside, some may use none of the
    last samples: the blocks that only lead to those are never run.
    """

    def __init__(
        self, controlnet: FluxControlNet, *, doubles: int, singles: int, attention: str = "sdpa"
    ) -> None:
        super().__init__(controlnet, attention=attention)
        self.num_doubles = len(controlnet.controlnet_blocks)
        self.num_singles = len(controlnet.controlnet_single_blocks)
        self.runs_singles = used(singles, self.num_singles)
        self.runs_doubles = used(doubles, self.num_doubles)
        if self.runs_singles:
            self.runs_doubles = self.num_doubles
        self._layout_of = lru_cache(_LAYOUTS_KEPT)(self.layout)

    @property
    def width(self) -> int:
        """d."""
        return self.transformer.inner_dim

    def mode_token(self, mode: int | None) -> torch.Tensor | None:
        """(1, d) of a union's mode; None for a ControlNet without modes."""
        if self.transformer.num_mode is None or mode is None:
            return None
        where = torch.tensor([mode], device=self.device)
        return self.transformer.controlnet_mode_embedder(where)

    def embed_hint(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (S, D) of a control map -> (S, d)."""
        return self.transformer.controlnet_x_embedder(latents)

    def samples(
        self, inputs: Sequence[MapInputs], latents: Sequence[torch.Tensor], steps: Sequence[int]
    ) -> list[BlockSamples]:
        """What it says of each segment's `latents` (S, D) before forward `steps`, unscaled."""
        shapes = tuple(each.shape for each in inputs)
        layout: Layout = self._layout_of(shapes)
        batch = PackedBatch(
            layout=layout,
            img=torch.cat(list(latents)),
            txt=torch.cat([each.txt for each in inputs]),
            vec=torch.stack([each.vec[step] for each, step in zip(inputs, steps, strict=True)]),
            rope=RotaryTable(
                torch.cat([each.rope.cos for each in inputs]),
                torch.cat([each.rope.sin for each in inputs]),
            ),
        )
        rows = layout.places.product_rows
        counts = None if rows is None else rows.image
        img = linear(batch.img, layer_of(self.transformer.x_embedder), counts)
        img = img + torch.cat([each.hint for each in inputs])
        seen = _Samplers(self.transformer, shapes, counts)
        vectors = batch.vec.unflatten(1, (-1, self.width))
        parts = vectors.split([12 * self.runs_doubles, 3 * self.runs_singles], dim=1)
        doubles, singles = (part.split(k, dim=1) for part, k in zip(parts, (6, 3), strict=True))
        self._through_blocks(
            img.unflatten(0, (layout.groups, -1)),
            batch,
            doubles if self.runs_doubles else (),
            singles if self.runs_singles else (),
            seen,
        )
        return [BlockSamples(*each) for each in zip(seen.doubles, seen.singles, strict=True)]

    def _adaptive_norms(self) -> Iterator[tuple[Any, list[int]]]:
        """Of the blocks that run; there is no output norm."""
        for block in self.transformer.transformer_blocks[: self.runs_doubles]:
            yield block.norm1, [1, 4]
            yield block.norm1_context, [1, 4]
        for block in self.transformer.single_transformer_blocks[: self.runs_singles]:
            yield block.norm, [1]


class _Samplers:
    """Puts each block's image tokens through its linear layer, by segment."""

    def __init__(
        self, controlnet: Any, shapes: Sequence[SegmentShape], counts: tuple[int, ...] | None
    ) -> None:
        self._net = controlnet
        self._counts = counts
        self._image, self._joint = image_rows(shapes), joint_rows(shapes)
        self.doubles: list[list[torch.Tensor]] = [[] for _ in shapes]
        self.singles: list[list[torch.Tensor]] = [[] for _ in shapes]

    def after_double(self, index: int, image: torch.Tensor) -> None:
        layer = layer_of(self._net.controlnet_blocks[index])
        sample = linear(image.flatten(0, 1), layer, self._counts)
        for found, rows in zip(self.doubles, self._image, strict=True):
            found.append(sample[rows])

    def after_single(self, index: int, joint: torch.Tensor) -> None:
        layer, rows = self._net.controlnet_single_blocks[index], joint.flatten(0, 1)
        for found, own in zip(self.singles, self._joint, strict=True):
            found.append(layer(rows[own]))


def every(blocks: int, samples: int) -> int:
    """For how many blocks in a row one of `samples` serves, as diffusers shares them out."""
    return -(-blocks // samples) if samples else 1


def used(blocks: int, samples: int) -> int:
    """How many of `samples` any of `blocks` blocks takes."""
    return -(-blocks // every(blocks, samples)) if samples else 0
