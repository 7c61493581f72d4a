"""What a tick moves between ranks, worked out beforehand; `RankMesh.received` counts what it does.

Symbols:  T tokens   I image tokens   d width   D latent channels   e bytes of a value
          t tensor   u Ulysses        N = t u ranks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.packing.layout import SegmentShape
from pipelines.parallel.degrees import Degrees, shares


def tick_traffic(
    config: Any, shapes: Sequence[SegmentShape], degrees: Degrees, *, itemsize: int
) -> dict[str, int]:
    """Bytes that come to ranks from others in one tick, over all ranks, by kind of collective.

    all_reduce: a ring brings each of t ranks 2 (t - 1) / t of what is summed, T d e: twice in a
    double block, once in a single one. all_to_all: in each block query, key, value and the result,
    each T d e in all, of which (u - 1) / u change their rank. all_gather: velocities, I D e, to
    everybody, each share padded to the largest. Orders are not counted: some hundred bytes.
    """
    t, u = degrees.tensor, degrees.ulysses
    tokens = sum(text + image for text, image in shapes)
    width = config.num_attention_heads * config.attention_head_dim
    activations = tokens * width * itemsize
    sums = 2 * config.num_layers + config.num_single_layers
    blocks = config.num_layers + config.num_single_layers
    most = max(shares(max(shares(sum(image for _, image in shapes), u)), t))
    return {
        "all_reduce": 2 * (t - 1) * sums * activations,
        "all_to_all": 4 * (u - 1) * blocks * activations // u,
        "all_gather": degrees.ranks * (degrees.ranks - 1) * most * config.in_channels * itemsize,
    }
