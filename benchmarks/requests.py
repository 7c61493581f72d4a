"""What the clients of the serving benchmarks ask for: prompts of the carried model's world, sizes.

The same for every server that is compared. Pure: the same seed gives the same requests.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from pipelines.embedded.training.captions import captions
from pipelines.embedded.training.world import sample_codes


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def square(side: int) -> Size:
    """A square of `side` pixels."""
    return Size(side, side)


MIXED_SIZES: tuple[tuple[Size, float], ...] = (
    (square(64), 0.25),
    (square(96), 0.25),
    (square(128), 0.40),
    (square(192), 0.10),
)
"""An assumption, as the trace tells no sizes: 512, 768, 1024 and 1536 pixels in these shares,
divided by 8 to suit the carried model."""

_PROMPTS = 2048


def prompts(seed: int, *, count: int) -> list[str]:
    """`count` different sentences of the carried model's world."""
    found: dict[str, None] = {}
    generator, rng = torch.Generator().manual_seed(seed % 2**63), random.Random(seed)
    while len(found) < count:
        found |= dict.fromkeys(item.text for item in captions(sample_codes(count, generator), rng))
    return list(found)[:count]


def bodies(seed: int, sizes: Sequence[tuple[Size, float]]) -> Iterator[dict[str, object]]:
    """Endless requests for one image, sizes by their shares.

    No prompt comes twice within `_PROMPTS` requests, more than a block takes: no cache helps.
    """
    rng = random.Random(seed)
    names, shares = zip(*sizes, strict=True)
    texts = prompts(seed, count=_PROMPTS)
    return (
        body(text, size=rng.choices(names, shares)[0], seed=rng.randrange(2**31))
        for text in itertools.cycle(texts)
    )


def body(prompt: str, *, size: Size, seed: int, n: int = 1, **more: object) -> dict[str, object]:
    """The JSON of one request."""
    return {
        "prompt": prompt,
        "n": n,
        "size": str(size),
        "seed": seed,
        "response_format": "b64_json",
        **more,
    }
