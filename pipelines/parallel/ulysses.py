"""Ulysses (DeepSpeed, arXiv 2309.14509) for packed batches: tokens here, heads there.

Everything that is done to tokens one by one is done to a rank's share of them: a slice of the text
and a slice of the image tokens of the whole batch, whatever segments they belong to. Attention
needs whole segments, so an all-to-all turns "some tokens, all heads" into "all tokens, some heads",
any back end attends inside the segments, and a second one turns back.

*Rank order* is the share of the first rank (its text, then its image tokens), of the second, and so
on; stream and segment order are those of `pipelines.packing.layout`.

Shapes:  T tokens of the batch    t of this rank    h heads before the exchange    u ranks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pipelines.packing.attention import AttentionBackend
from pipelines.packing.layout import Layout, Places, SegmentShape, make_places
from pipelines.parallel.degrees import shares, spans
from pipelines.parallel.mesh import RankMesh


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedLayout(Layout):
    """A layout whose places are those of this rank's tokens.

    `text` and `image` are its slices of the batch in stream order; `rows` (t,) its tokens' places
    in segment order.
    """

    text: slice
    image: slice
    rows: torch.Tensor


class UlyssesPlan(NamedTuple):
    """`counts` are the ranks' tokens; `to_segments` (T,) takes rank order to segment order and
    `to_ranks` (T,) back; `inner` is what the back end prepared."""

    counts: tuple[int, ...]
    to_segments: torch.Tensor
    to_ranks: torch.Tensor
    inner: Any


class UlyssesAttention:
    """Attends with a share of the heads to all tokens, by the back end `inner`."""

    def __init__(self, inner: AttentionBackend, mesh: RankMesh) -> None:
        self._inner = inner
        self._mesh = mesh

    def prepare(self, lengths: Sequence[int], device: torch.device) -> Any:
        return self._inner.prepare(lengths, device)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: UlyssesPlan
    ) -> torch.Tensor:
        """(t, h, E) three times, in this rank's order -> (t, h, E)."""
        counts, ranks = plan.counts, len(plan.counts)
        tokens, heads, width = query.shape
        share = heads // ranks * width
        # One message for the three: (u, t, 3, h / u, E).
        parts = torch.stack([x.unflatten(1, (ranks, -1)) for x in (query, key, value)], dim=2)
        arrived = self._mesh.exchange(
            parts.transpose(0, 1).flatten(),
            [3 * tokens * share] * ranks,
            [3 * count * share for count in counts],
        )
        joint = arrived.view(-1, 3, heads // ranks, width).index_select(0, plan.to_segments)
        attended = self._inner(joint[:, 0], joint[:, 1], joint[:, 2], plan.inner)
        returned = self._mesh.exchange(
            attended.index_select(0, plan.to_ranks).flatten(),
            [count * share for count in counts],
            [tokens * share] * ranks,
        )
        return returned.view(ranks, tokens, -1, width).transpose(0, 1).flatten(1, 2)


def shard_layout(layout: Layout, mesh: RankMesh) -> ShardedLayout:
    """This rank's share of a packed batch."""
    ranks, row, shapes = mesh.degrees.ulysses, mesh.row, layout.shapes
    text, image = (spans(shares(sum(tokens), ranks)) for tokens in zip(*shapes, strict=True))
    whole = make_places(shapes, mesh.device)
    assert whole.text_rows is not None
    assert whole.image_rows is not None
    rows = [
        torch.cat([whole.text_rows[texts], whole.image_rows[images]])
        for texts, images in zip(text, image, strict=True)
    ]
    to_ranks = torch.cat(rows)
    return ShardedLayout(
        shapes=shapes,
        groups=1,
        places=_places(shapes, whole, text[row], image[row]),
        attention_plan=UlyssesPlan(
            counts=tuple(len(part) for part in rows),
            to_segments=to_ranks.argsort(),
            to_ranks=to_ranks,
            inner=layout.attention_plan,
        ),
        text=text[row],
        image=image[row],
        rows=rows[row],
    )


def _places(shapes: Sequence[SegmentShape], whole: Places, text: slice, image: slice) -> Places:
    """Which segment each of a rank's tokens belongs to; where there is one, no index is needed."""
    if len(shapes) == 1:
        return Places()
    assert whole.text_owner is not None
    assert whole.image_owner is not None
    texts, images = whole.text_owner[text], whole.image_owner[image]
    return Places(owner=torch.cat([texts, images]), text_owner=texts, image_owner=images)
