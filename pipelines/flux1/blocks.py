"""The two kinds of FLUX.1 block, over packed tokens, each cut in two where it attends.

Attention depends on how a batch is composed; what comes before and after does not, so those four
functions can be compiled once for every block and every batch. They are pure: weights in, tensors
in, tensors out. The arithmetic is that of diffusers' blocks to the bit: nothing is fused that would
round otherwise (a product and a sum in one operation do).

Shapes (`pipelines.packing.layout` says what groups are):
    G groups    N tokens in each (n in one stream)    d width    H heads    E head width
    B segments                                        T = G * N tokens
    image, text, joint (G, n, d)      modulation (B, k, d), k vectors for each segment
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from pipelines.flux1.block_weights import DoubleWeights, SingleWeights, StreamWeights
from pipelines.packing.layout import Places
from pipelines.packing.linear import linear

_EPSILON = 1e-6
_FLOAT16_MAX = 65504


Rotation = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""Rotary factors in segment order: complex (G, N, 1, 1, E / 2), which takes the fewest operations,
or cosine and sine (G, N, 1, 1, E) each, which compilers understand."""

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query, key and value, each (T, H, E) in segment order."""


def double_before(
    weights: DoubleWeights,
    image: torch.Tensor,
    text: torch.Tensor,
    image_modulation: torch.Tensor,
    text_modulation: torch.Tensor,
    rotation: Rotation,
    places: Places,
) -> Heads:
    """What a double block attends with."""
    text_rows, image_rows, _ = places.product_rows or (None, None, None)
    image_qk, image_value = _stream_heads(
        weights.image, image, image_modulation, places.image_owner, image_rows
    )
    text_qk, text_value = _stream_heads(
        weights.text, text, text_modulation, places.text_owner, text_rows
    )
    qk = torch.cat([text_qk, image_qk], dim=1)
    value = torch.cat([text_value, image_value], dim=1)
    if places.to_segments is not None:
        qk = qk.index_select(1, places.to_segments)
        value = value.index_select(1, places.to_segments)
    counts = None if places.row_counts is None else places.row_counts.joint
    query, key = _rotate(qk, rotation, counts).flatten(0, 1).unbind(1)
    return query, key, value.flatten(0, 1)


def double_after(
    weights: DoubleWeights,
    image: torch.Tensor,
    text: torch.Tensor,
    attended: torch.Tensor,
    image_modulation: torch.Tensor,
    text_modulation: torch.Tensor,
    places: Places,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text after a double block that attended to `attended` (T, H, E)."""
    joint = attended.flatten(1).unflatten(0, (image.shape[0], -1))
    if places.text_rows is not None and places.image_rows is not None:
        image_in = joint.index_select(1, places.image_rows)
        text_in = joint.index_select(1, places.text_rows)
    else:
        text_in, image_in = joint.split([text.shape[1], image.shape[1]], dim=1)
    text_counts, image_counts, _ = places.row_counts or (None, None, None)
    text_rows, image_rows, _ = places.product_rows or (None, None, None)
    image = _stream_after(
        weights.image,
        image,
        image_in,
        image_modulation,
        places.image_owner,
        image_counts,
        image_rows,
    )
    text = _stream_after(
        weights.text, text, text_in, text_modulation, places.text_owner, text_counts, text_rows
    )
    return image, clip_float16(text)


def single_before(
    weights: SingleWeights,
    joint: torch.Tensor,
    modulation: torch.Tensor,
    rotation: Rotation,
    places: Places,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a single block attends with, and its MLP's hidden layer (G, N, 4d)."""
    # The products have 3a + m and a + m values, a for attention and m for the MLP: d and 4d, or a
    # rank's share of them.
    rows, columns = weights.qkv_mlp.weight.shape[0], weights.out.weight.shape[1]
    qkv_rows = 3 * (rows - columns) // 2
    shift, scale = spread(modulation[:, :2], places.owner)
    rows_of = None if places.product_rows is None else places.product_rows.joint
    projected = linear(norm_modulate(joint, shift, scale), weights.qkv_mlp, rows_of)
    qkv, mlp = projected.split([qkv_rows, rows - qkv_rows], dim=-1)
    qk, value = _split_heads(qkv, weights.head_norm)
    counts = None if places.row_counts is None else places.row_counts.joint
    query, key = _rotate(qk, rotation, counts).flatten(0, 1).unbind(1)
    return query, key, value.flatten(0, 1), _gelu(mlp, counts)


def single_after(
    weights: SingleWeights,
    joint: torch.Tensor,
    attended: torch.Tensor,
    hidden: torch.Tensor,
    modulation: torch.Tensor,
    places: Places,
) -> torch.Tensor:
    """The tokens after a single block that attended to `attended` (T, H, E)."""
    (gate,) = spread(modulation[:, 2:], places.owner)
    both = torch.cat([attended.flatten(1).unflatten(0, joint.shape[:2]), hidden], dim=-1)
    rows = None if places.product_rows is None else places.product_rows.joint
    return clip_float16(_add_gated(joint, gate, linear(both, weights.out, rows)))


def _stream_heads(
    weights: StreamWeights,
    x: torch.Tensor,
    modulation: torch.Tensor,
    owner: torch.Tensor | None,
    rows: tuple[int, ...] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    shift, scale = spread(modulation[:, :2], owner)
    qkv = linear(norm_modulate(x, shift, scale), weights.qkv, rows)
    return _split_heads(qkv, weights.head_norm)


def _stream_after(
    weights: StreamWeights,
    x: torch.Tensor,
    attended: torch.Tensor,
    modulation: torch.Tensor,
    owner: torch.Tensor | None,
    counts: tuple[int, ...] | None,
    rows: tuple[int, ...] | None,
) -> torch.Tensor:
    gate, mlp_shift, mlp_scale, mlp_gate = spread(modulation[:, 2:], owner)
    # A product needs its rows in one piece; torch would add the bias separately otherwise.
    x = _add_gated(x, gate, linear(attended.contiguous(), weights.out, rows))
    hidden = linear(norm_modulate(x, mlp_shift, mlp_scale), weights.mlp_in, rows)
    return _add_gated(x, mlp_gate, linear(_gelu(hidden, counts), weights.mlp_out, rows))


def _gelu(x: torch.Tensor, counts: tuple[int, ...] | None) -> torch.Tensor:
    if counts is None:
        return functional.gelu(x, approximate="tanh")
    parts = _segments(x, counts)
    return _joined(x, [functional.gelu(part, approximate="tanh") for part in parts])


def _segments(x: torch.Tensor, counts: tuple[int, ...]) -> Sequence[torch.Tensor]:
    """The segments of (G, N, ...): groups, or so many rows each of the only one."""
    return x.split(1) if len(x) > 1 else x.split(counts, dim=1)


def _joined(x: torch.Tensor, segments: Sequence[torch.Tensor]) -> torch.Tensor:
    """What was made of the `_segments` of `x`, as it was."""
    return torch.cat(list(segments), dim=0 if len(x) > 1 else 1)


def spread(modulation: torch.Tensor, owner: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """The k vectors of each segment, for its tokens: (G, 1, d) each, or (1, T, d) by `owner`."""
    if owner is None:
        return modulation[:, None].unbind(2)
    return modulation.index_select(0, owner)[None].unbind(2)


def norm_modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """LayerNorm, scaled and shifted. `scale` already has the 1 of AdaLN's 1 + scale in it."""
    return functional.layer_norm(x, (x.shape[-1],), eps=_EPSILON).mul_(scale).add_(shift)


def _add_gated(x: torch.Tensor, gate: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """x + gate * update, in the memory of `update`."""
    return update.mul_(gate).add_(x)


def _split_heads(qkv: torch.Tensor, head_norm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(G, N, 3d) -> normalised query and key (G, N, 2, H, E), and value (G, N, H, E)."""
    width = head_norm.shape[-1]
    heads = qkv.unflatten(-1, (3, -1, width))
    qk, value = heads[:, :, :2], heads[:, :, 2]
    if qk.dtype == torch.float32:
        # Both at once: the product with the weights rounds as inside rms_norm.
        return functional.rms_norm(qk, (width,), eps=_EPSILON) * head_norm[:, None], value
    query, key = (
        functional.rms_norm(x, (width,), weight, _EPSILON)
        for x, weight in zip(qk.unbind(2), head_norm.unbind(), strict=True)
    )
    return torch.stack([query, key], dim=2), value


def _rotate(
    x: torch.Tensor, rotation: Rotation, counts: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Rotate neighbouring pairs of each head of `x` (G, N, 2, H, E), in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if isinstance(rotation, torch.Tensor):
        turned = torch.view_as_real(_turned(torch.view_as_complex(pairs), rotation, counts))
        turned = turned.flatten(-2)
    else:
        cosine, sine = rotation
        real, imaginary = pairs.unbind(-1)
        quarter = torch.stack([-imaginary, real], dim=-1).flatten(-2)
        turned = pairs.flatten(-2) * cosine + quarter * sine
    return turned.to(x.dtype)


def _turned(
    x: torch.Tensor, rotation: torch.Tensor, counts: tuple[int, ...] | None
) -> torch.Tensor:
    if counts is None:
        return x * rotation
    pairs = zip(_segments(x, counts), _segments(rotation, counts), strict=True)
    return _joined(x, [part * factors for part, factors in pairs])


def clip_float16(x: torch.Tensor) -> torch.Tensor:
    """FLUX overflows float16 in places; diffusers clips there, so we do."""
    return x.clip(-_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == torch.float16 else x
