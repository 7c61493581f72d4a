"""How segments of any size lie one after the other in one batch, without padding.

Shapes:
    B  segments                  d  transformer width         M  modulation values of one forward
    I  image tokens in all       X  text tokens in all        T = I + X
    D  latent channels           E  width of a head

*Stream order* is all text, then all image tokens. *Segment order* is text and image of the first
segment, text and image of the second, and so on, which is what attention needs. Inside a
transformer, tokens are in G *groups*: segments of one shape are a group each (G = B), and
modulation broadcasts over it; where shapes differ, all tokens are one group (G = 1), and indices
say where each belongs. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class SegmentShape(NamedTuple):
    """Tokens of one segment."""

    text: int
    image: int


class RotaryTable(NamedTuple):
    """Rotary factors in segment order, both (T, E) float32, each pair of columns alike."""

    cos: torch.Tensor
    sin: torch.Tensor


class RowCounts(NamedTuple):
    """The tokens of each segment, in the order of the segments."""

    text: tuple[int, ...]
    image: tuple[int, ...]
    joint: tuple[int, ...]


class Places(NamedTuple):
    """Where tokens stand when segments differ; all None when they are alike.

    `to_segments` (T,) reorders stream order into segment order; `text_rows` and `image_rows` pick
    the streams out of segment order again; the owners name each token's segment. Alike or not,
    `product_rows` are there where a product may depend on how many rows it has, and `row_counts`
    where activations and rotations must be computed segment by segment
    (`pipelines.batch_invariant`).
    """

    to_segments: torch.Tensor | None = None
    text_rows: torch.Tensor | None = None
    image_rows: torch.Tensor | None = None
    owner: torch.Tensor | None = None
    text_owner: torch.Tensor | None = None
    image_owner: torch.Tensor | None = None
    row_counts: RowCounts | None = None
    product_rows: RowCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each token of a packed batch stands. Depends on shapes only, so it can be reused.

    `attention_plan` is what the attention back end prepared for these segments.
    """

    shapes: tuple[SegmentShape, ...]
    groups: int
    places: Places
    attention_plan: Any


def make_places(shapes: Sequence[SegmentShape], device: torch.device) -> Places:
    """Where the tokens of segments with these shapes stand, as indices on `device`."""
    is_text = torch.cat([torch.arange(text + image) < text for text, image in shapes])
    owner = torch.repeat_interleave(
        torch.arange(len(shapes)), torch.tensor([sum(shape) for shape in shapes])
    )
    text_rows, image_rows = is_text.nonzero().flatten(), (~is_text).nonzero().flatten()
    return Places(
        to_segments=torch.cat([text_rows, image_rows]).argsort().to(device),
        text_rows=text_rows.to(device),
        image_rows=image_rows.to(device),
        owner=owner.to(device),
        text_owner=owner[text_rows].to(device),
        image_owner=owner[image_rows].to(device),
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
