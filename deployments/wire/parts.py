"""Parts: what has been done for the images of a request, so that it can be taken up again.

No torch here; `checkpoint_file.py` makes bytes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deployments.wire.packed import PackedCheckpoint, PromptFacts
from pipelines.contracts import FinishedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCheckpoint:
    """Image `image` would go on from here, on whatever replica, to the same bytes."""

    image: int
    checkpoint: PackedCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDrawn:
    """Image `image` is finished, and stored if it was to be: nothing more need be done for it.

    `prompts` are the facts of the prompt and, with true guidance, of the negative prompt.
    """

    image: int
    file: FinishedImage
    prompts: tuple[PromptFacts, ...]


Part = ImageCheckpoint | ImageDrawn

NOTHING_DONE: Mapping[int, Part] = MappingProxyType({})
"""The parts of a request that begins anew, by its images' indices."""
