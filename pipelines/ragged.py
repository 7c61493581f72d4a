"""The packed forward: one pass of a FLUX.1 transformer over requests of any size.

The image and text tokens of all segments lie one after the other, without padding. Linear layers
see one long matrix; modulation is looked up per segment; RoPE is per token; attention runs inside
each segment only. The modules are those of a loaded `diffusers.FluxTransformer2DModel`, and for
each segment the result is what its own `forward` gives.

Shapes (the paper's names):
    B  segments                  d  transformer width         M  modulation values per step
    I  image tokens in all       X  text tokens in all        T = I + X
    img (I, D) latents in, (I, d) inside        txt (X, d)        vec (steps, M)

*Stream order* is all text, then all image tokens. *Segment order* is text and image of the first
segment, text and image of the second, and so on, which is what attention needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb

from pipelines.attention import SegmentAttention, backend

_FLOAT16_MAX = 65504


class SegmentShape(NamedTuple):
    """Tokens of one segment."""

    text: int
    image: int


class RotaryTable(NamedTuple):
    """Rotary factors in segment order, both (T, E) float32."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each token of a packed batch stands. Depends on shapes only, so it can be reused.

    `to_segments` (T,) reorders stream order into segment order; `text_rows` (X,) and `image_rows`
    (I,) pick the streams out of segment order again. `text_owner`, `image_owner` and `owner` name
    each token's segment.
    """

    shapes: tuple[SegmentShape, ...]
    lengths: tuple[int, ...]
    to_segments: torch.Tensor
    text_rows: torch.Tensor
    image_rows: torch.Tensor
    text_owner: torch.Tensor
    image_owner: torch.Tensor
    owner: torch.Tensor


def make_layout(shapes: Sequence[SegmentShape], device: torch.device) -> Layout:
    """The layout of segments with these shapes, its indices on `device`."""
    is_text = torch.cat(
        [torch.arange(text + image) < text for text, image in shapes] or [torch.zeros(0)]
    ).bool()
    owner = torch.repeat_interleave(
        torch.arange(len(shapes)), torch.tensor([sum(shape) for shape in shapes])
    )
    text_rows, image_rows = is_text.nonzero().flatten(), (~is_text).nonzero().flatten()
    stream_order = torch.cat([text_rows, image_rows])
    return Layout(
        shapes=tuple(shapes),
        lengths=tuple(sum(shape) for shape in shapes),
        to_segments=stream_order.argsort().to(device),
        text_rows=text_rows.to(device),
        image_rows=image_rows.to(device),
        text_owner=owner[text_rows].to(device),
        image_owner=owner[image_rows].to(device),
        owner=owner.to(device),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """The input of one packed forward.

    `img` (I, D) latents and `txt` (X, d) embedded text, each in segment order of its stream;
    `vec` (B, M) one row of modulation per segment; `rope` in segment order.
    """

    layout: Layout
    img: torch.Tensor
    txt: torch.Tensor
    vec: torch.Tensor
    rope: RotaryTable


class _Modulation:
    """Hands out one step's modulation, block by block, spread over the tokens."""

    def __init__(self, vec: torch.Tensor, width: int) -> None:
        self._chunks = iter(vec.split(width, dim=1))
        self._is_single = vec.shape[0] == 1

    def take(self, count: int, owner: torch.Tensor) -> Iterator[torch.Tensor]:
        """The next `count` vectors, each (tokens, d), or (1, d) where broadcasting will do."""
        for _ in range(count):
            chunk = next(self._chunks)
            yield chunk if self._is_single else chunk[owner]


class PackedFlux:
    """A FLUX.1 transformer that takes packed batches. Holds no state between calls."""

    def __init__(self, transformer: FluxTransformer2DModel, *, attention: str = "sdpa") -> None:
        self.transformer = transformer
        self._attend: SegmentAttention = backend(attention)
        self._width: int = transformer.inner_dim

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def config(self) -> Any:
        return self.transformer.config

    def embed_text(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Text tokens (L, C) -> (L, d). The same at every step, so done once per request."""
        return self.transformer.context_embedder(prompt_embeds)

    def rotary(self, ids: torch.Tensor) -> RotaryTable:
        """Rotary factors of positions (T, 3)."""
        return RotaryTable(*self.transformer.pos_embed(ids))

    def modulation(
        self, timesteps: torch.Tensor, guidance_scale: float, pooled: torch.Tensor
    ) -> torch.Tensor:
        """All modulation vectors of a request, (N, M), for `timesteps` (N,) and `pooled` (P,).

        Modulation sees only the time, the guidance and the pooled text, so all steps are computed
        in one product when a request is admitted, and never again. `guidance_scale` is ignored by
        a model without guidance embedding. Order of the columns: the double blocks (image, text),
        the single blocks, the output norm; d columns for each vector.
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
        return torch.cat([norm.linear(norm.silu(vec)) for norm in self._adaptive_norms()], dim=1)

    def _adaptive_norms(self) -> Iterator[Any]:
        for block in self.transformer.transformer_blocks:
            yield block.norm1
            yield block.norm1_context
        for block in self.transformer.single_transformer_blocks:
            yield block.norm
        yield self.transformer.norm_out

    def velocity(self, batch: PackedBatch) -> torch.Tensor:
        """Predicted velocities (I, D) of every image token in the batch."""
        model, layout = self.transformer, batch.layout
        modulation = _Modulation(batch.vec, self._width)
        img, txt = model.x_embedder(batch.img), batch.txt
        for block in model.transformer_blocks:
            img, txt = self._double_block(block, img, txt, modulation, batch)
        x = torch.cat([txt, img])[layout.to_segments]
        for block in model.single_transformer_blocks:
            x = self._single_block(block, x, modulation, batch)
        img = x[layout.image_rows]
        scale, shift = modulation.take(2, layout.image_owner)
        return model.proj_out(model.norm_out.norm(img) * (1 + scale) + shift)

    def _double_block(
        self,
        block: Any,
        img: torch.Tensor,
        txt: torch.Tensor,
        modulation: _Modulation,
        batch: PackedBatch,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and image streams with weights of their own and one joint attention."""
        layout, attn = batch.layout, block.attn
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.take(6, layout.image_owner)
        c_shift, c_scale, c_gate, c_mlp_shift, c_mlp_scale, c_mlp_gate = modulation.take(
            6, layout.text_owner
        )
        img_in = block.norm1.norm(img) * (1 + scale) + shift
        txt_in = block.norm1_context.norm(txt) * (1 + c_scale) + c_shift

        query = _heads(
            attn, attn.norm_added_q, attn.add_q_proj(txt_in), attn.norm_q, attn.to_q(img_in)
        )
        key = _heads(
            attn, attn.norm_added_k, attn.add_k_proj(txt_in), attn.norm_k, attn.to_k(img_in)
        )
        value = torch.cat([attn.add_v_proj(txt_in), attn.to_v(img_in)]).unflatten(
            -1, (-1, attn.head_dim)
        )
        order = layout.to_segments
        attended = self._attention(query[order], key[order], value[order], batch)

        img = img + gate * attn.to_out[1](attn.to_out[0](attended[layout.image_rows]))
        img = img + mlp_gate * block.ff(block.norm2(img) * (1 + mlp_scale) + mlp_shift)
        txt = txt + c_gate * attn.to_add_out(attended[layout.text_rows])
        txt = txt + c_mlp_gate * block.ff_context(
            block.norm2_context(txt) * (1 + c_mlp_scale) + c_mlp_shift
        )
        return img, _clip_float16(txt)

    def _single_block(
        self, block: Any, x: torch.Tensor, modulation: _Modulation, batch: PackedBatch
    ) -> torch.Tensor:
        """One stream; attention and MLP side by side, joined by one output projection."""
        attn = block.attn
        shift, scale, gate = modulation.take(3, batch.layout.owner)
        x_in = block.norm.norm(x) * (1 + scale) + shift
        query = attn.norm_q(attn.to_q(x_in).unflatten(-1, (-1, attn.head_dim)))
        key = attn.norm_k(attn.to_k(x_in).unflatten(-1, (-1, attn.head_dim)))
        value = attn.to_v(x_in).unflatten(-1, (-1, attn.head_dim))
        attended = self._attention(query, key, value, batch)
        hidden = block.act_mlp(block.proj_mlp(x_in))
        return _clip_float16(x + gate * block.proj_out(torch.cat([attended, hidden], dim=-1)))

    def _attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch
    ) -> torch.Tensor:
        """Rotate, attend inside the segments, join the heads: (T, H, E) -> (T, d)."""
        table: Any = batch.rope
        query, key = (apply_rotary_emb(x[None], table, sequence_dim=1)[0] for x in (query, key))
        return self._attend(query, key, value, batch.layout.lengths).flatten(-2)


def _heads(
    attn: Any, text_norm: Any, text: torch.Tensor, image_norm: Any, image: torch.Tensor
) -> torch.Tensor:
    """Split both streams into normalised heads and join them in stream order: (T, H, E)."""
    text, image = (x.unflatten(-1, (-1, attn.head_dim)) for x in (text, image))
    return torch.cat([text_norm(text), image_norm(image)])


def _clip_float16(x: torch.Tensor) -> torch.Tensor:
    """FLUX overflows float16 in places; diffusers clips there, so we do."""
    return x.clip(-_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == torch.float16 else x
