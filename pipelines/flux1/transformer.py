"""The packed forward: one pass of a FLUX.1 transformer over requests of any size.

The image and text tokens of all segments lie one after the other, without padding. Linear layers
see one long matrix; modulation is looked up per segment; RoPE is per token; attention runs inside
each segment only. The weights are a `FluxTransformer`'s, or a `diffusers.FluxTransformer2DModel`'s,
and for each segment the result is what `forward` of the latter gives.

Shapes (the paper's names):
    B  segments                  d  transformer width         K  modulation vectors per step
    I  image tokens in all       X  text tokens in all        T = I + X
    img (I, D) latents in, (I, d) inside        txt (X, d)        vec (steps, K * d)

Stream order, segment order and groups are those of `pipelines.packing.layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipelines.batch_invariant import rounds_by_position
from pipelines.flux1 import blocks
from pipelines.flux1.block_weights import double_weights, single_weights
from pipelines.flux1.blocks import Rotation
from pipelines.flux1.residuals import BlockObserver, BlockResidual, ResidualAddition
from pipelines.packing.attention import AttentionBackend, backend
from pipelines.packing.layout import (
    Layout,
    PackedBatch,
    Places,
    RotaryTable,
    RowCounts,
    SegmentShape,
    make_places,
)
from pipelines.packing.linear import Total, layer_of, linear

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from pipelines.flux1.modules import FluxTransformer


_SHAPES_TO_COMPILE = (
    (SegmentShape(22, 43),),
    tuple(SegmentShape(22, 43) if i else SegmentShape(35, 58) for i in range(5)),
)
"""One segment, and several. Torch takes two sizes that are equal at the first call for one and the
same, and compiles again when they differ; so no size here equals another, nor a width of a model.
"""


class _Regions(NamedTuple):
    """The four halves of blocks, as they are or compiled."""

    double_before: Any
    double_after: Any
    single_before: Any
    single_after: Any


_EAGER = _Regions(
    blocks.double_before, blocks.double_after, blocks.single_before, blocks.single_after
)


class PackedFlux:
    """A FLUX.1 transformer that takes packed batches. Holds no state between calls.

    With `compile`, the halves of the blocks are compiled when it is made, for a batch of one
    segment and for any other, whatever the sizes; it is then to be called under
    `torch.inference_mode`. Compiled code keeps float32 between operations where bfloat16 would
    round, so its results are close to those of eager code, but not equal to the bit.

    The weights of `transformer` are rearranged in place (`pipelines.flux1.block_weights`): move it
    to its device before, and not after.
    """

    def __init__(
        self,
        transformer: FluxTransformer | FluxTransformer2DModel,
        *,
        attention: str = "sdpa",
        compile: bool = False,
        compiler: str | Callable[..., Any] = "inductor",
        total: Total | None = None,
    ) -> None:
        """Raises ConfigurationError when the `attention` back end cannot run here.

        `compiler` names the back end of torch.compile. `total` adds up over ranks where each holds
        a share of every block.
        """
        self.transformer: Any = transformer
        # Kept: diffusers walks all modules each time that it is asked.
        self.dtype: torch.dtype = transformer.dtype
        self.device: torch.device = transformer.device
        self.config: Any = transformer.config
        self._attend = self._make_attention(attention)
        self._double = [double_weights(b, total) for b in transformer.transformer_blocks]
        self._single = [single_weights(b, total) for b in transformer.single_transformer_blocks]
        self._is_compiled = compile
        self._regions = _compiled(compiler) if compile else _EAGER
        if compile:
            for shapes in _SHAPES_TO_COMPILE:
                self._run_zeros(shapes)

    def layout(self, shapes: Sequence[SegmentShape]) -> Layout:
        """The layout of segments with these shapes, in this order."""
        # Compiled code reads modulation through an index for free, but would be compiled anew for
        # every number of groups that is a batch axis to torch.
        alike = len(shapes) == 1 or (len(set(shapes)) == 1 and not self._is_compiled)
        lengths = [sum(shape) for shape in shapes]
        places = Places() if alike else make_places(shapes, self.device)
        return Layout(
            shapes=tuple(shapes),
            groups=len(shapes) if alike else 1,
            places=self._with_rows(places, shapes),
            attention_plan=self._attend.prepare(lengths, self.device),
        )

    def _with_rows(self, places: Places, shapes: Sequence[SegmentShape]) -> Places:
        """`places` with the rows of each segment, where on this device it matters."""
        if len(shapes) == 1 or self._is_compiled or self.device.type != "cpu":
            return places
        text, image = zip(*shapes, strict=True)
        rows = RowCounts(text, image, tuple(map(sum, shapes)))
        return places._replace(
            product_rows=rows, row_counts=rows if rounds_by_position(self.device) else None
        )

    def embed_text(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Text tokens (L, C) -> (L, d). The same at every step, so done once per request."""
        return self.transformer.context_embedder(prompt_embeds)

    def rotary(self, ids: torch.Tensor) -> RotaryTable:
        """Rotary factors of positions (T, 3)."""
        return RotaryTable(*self.transformer.pos_embed(ids))

    def modulation(
        self, timesteps: torch.Tensor, guidance_scale: float, pooled: torch.Tensor
    ) -> torch.Tensor:
        """All modulation vectors of a request, (N, K * d), for `timesteps` (N,) and `pooled` (P,).

        Modulation sees only the time, the guidance and the pooled text, so all steps are computed
        in one product when a request is admitted, and never again. `guidance_scale` is ignored by
        a model without guidance embedding. Order of the columns: the double blocks (image, text),
        the single blocks, the output norm; d columns for each vector. A scale has its 1 added.
        """
        model, dtype = self.transformer, self.dtype
        # The pipeline divides after its cast and the model multiplies after its own: keep both.
        time = (timesteps.to(dtype) / 1000).to(dtype) * 1000
        pooled = pooled[None].expand(len(time), -1)
        if self.config.guidance_embeds:
            guidance = torch.full([1], guidance_scale, device=time.device, dtype=torch.float32)
            guidance = guidance.expand(len(time)).to(dtype) * 1000
            vec = model.time_text_embed(time, guidance, pooled)
        else:
            vec = model.time_text_embed(time, pooled)
        return torch.cat([_modulate(*norm, vec) for norm in self._adaptive_norms()], dim=1)

    def _adaptive_norms(self) -> Iterator[tuple[Any, list[int]]]:
        """The AdaLN layers in order, each with the places of its scales among its vectors."""
        for block in self.transformer.transformer_blocks:
            yield block.norm1, [1, 4]
            yield block.norm1_context, [1, 4]
        for block in self.transformer.single_transformer_blocks:
            yield block.norm, [1]
        yield self.transformer.norm_out, [0]

    def velocity(self, batch: PackedBatch, residuals: Sequence[BlockResidual] = ()) -> torch.Tensor:
        """Predicted velocities (I, D) of every image token in the batch.

        `residuals` are added to the image tokens of some segments after each block.
        """
        model, places = self.transformer, batch.layout.places
        doubles, singles, (last,) = self._modulations(batch.vec)
        rows = None if places.product_rows is None else places.product_rows.image
        img = linear(batch.img, layer_of(model.x_embedder), rows)
        img = img.unflatten(0, (batch.layout.groups, -1))
        addition = ResidualAddition(residuals, batch.layout.shapes) if residuals else None
        img = self._through_blocks(img, batch, doubles, singles, addition)
        scale, shift = blocks.spread(last, places.image_owner)
        img = blocks.norm_modulate(img, shift, scale)
        return linear(img, layer_of(model.proj_out), rows).flatten(0, 1)

    def _through_blocks(
        self,
        img: torch.Tensor,
        batch: PackedBatch,
        doubles: Sequence[torch.Tensor],
        singles: Sequence[torch.Tensor],
        observer: BlockObserver | None,
    ) -> torch.Tensor:
        """Image tokens (G, n, d) after as many blocks as there is modulation (B, k, d) for.

        `observer` sees the tokens after each block, and may write into them.
        """
        regions, layout = self._regions, batch.layout
        groups, places, plan = layout.groups, layout.places, layout.attention_plan
        rotation = self._rotation(batch.rope, groups)
        txt = batch.txt.unflatten(0, (groups, -1))
        for index, (vec, c_vec) in enumerate(zip(doubles[::2], doubles[1::2], strict=True)):
            weights = self._double[index]
            heads = regions.double_before(weights, img, txt, vec, c_vec, rotation, places)
            attended = self._attend(*heads, plan)
            img, txt = regions.double_after(weights, img, txt, attended, vec, c_vec, places)
            if observer is not None:
                observer.after_double(index, img)
        x = torch.cat([txt, img], dim=1)
        if places.to_segments is not None:
            x = x.index_select(1, places.to_segments)
        for index, vec in enumerate(singles):
            weights = self._single[index]
            *heads, hidden = regions.single_before(weights, x, vec, rotation, places)
            attended = self._attend(*heads, plan)
            x = regions.single_after(weights, x, attended, hidden, vec, places)
            if observer is not None:
                observer.after_single(index, x)
        if places.image_rows is not None:
            return x.index_select(1, places.image_rows)
        return x[:, txt.shape[1] :]

    @torch.inference_mode()
    def _run_zeros(self, shapes: Sequence[SegmentShape]) -> None:
        """One forward of no meaning, to compile what it needs before the first request."""
        layout = self.layout(shapes)
        text, image = (sum(tokens) for tokens in zip(*shapes, strict=True))
        width = self.transformer.inner_dim
        ones = torch.ones(text + image, sum(self.config.axes_dims_rope), device=self.device)
        vectors = 12 * len(self._double) + 3 * len(self._single) + 2

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, device=self.device, dtype=self.dtype)

        self.velocity(
            PackedBatch(
                layout=layout,
                img=zeros(image, self.config.in_channels),
                txt=zeros(text, width),
                vec=zeros(len(shapes), vectors * width),
                rope=RotaryTable(ones, torch.zeros_like(ones)),
            )
        )

    def _make_attention(self, name: str) -> AttentionBackend:
        return backend(name, device=self.device, dtype=self.dtype)

    def _rotation(self, rope: RotaryTable, groups: int) -> Rotation:
        cos, sin = (table.unflatten(0, (groups, -1))[:, :, None, None] for table in rope)
        return (cos, sin) if self._is_compiled else torch.complex(cos[..., ::2], sin[..., ::2])

    def _modulations(self, vec: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Modulation (B, k, d) of each double stream (k = 6), single block (3) and the end (2)."""
        vectors = vec.unflatten(1, (-1, self.transformer.inner_dim))
        counts = [2 * 6 * len(self._double), 3 * len(self._single), 2]
        for part, k in zip(vectors.split(counts, dim=1), (6, 3, 2), strict=True):
            yield part.split(k, dim=1)


def _modulate(norm: Any, scales: list[int], vec: torch.Tensor) -> torch.Tensor:
    """The vectors (N, k * d) of one AdaLN layer, 1 added to its scales."""
    vectors = norm.linear(norm.silu(vec)).unflatten(1, (-1, vec.shape[1]))
    for scale in scales:  # not by the list: a GPU would wait for its upload
        vectors[:, scale].add_(1)
    return vectors.flatten(1)


def _compiled(compiler: str | Callable[..., Any]) -> _Regions:
    """Compiled halves: the weights are arguments, so all blocks of a kind share one compilation."""
    return _Regions(
        *(torch.compile(f, backend=compiler, dynamic=True, fullgraph=True) for f in _EAGER)
    )
