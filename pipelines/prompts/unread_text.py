"""What a prompt said in vain: part of `Conditioning`, so it crosses from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class DroppedText(NamedTuple):
    """The end of a prompt that did not fit into one `encoder`, by its name for clients.

    It was cut at `max_tokens`; None is for the encoder's own length, which no request sets.
    """

    encoder: str
    text: str
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadText:
    """What of a prompt the text encoders did not take in, as the client wrote it.

    `dropped` has an item for each encoder that it did not fit into. `unknown_words` became unknown
    tokens; `marks` mean tokens of the encoders' own.
    """

    dropped: tuple[DroppedText, ...] = ()
    unknown_words: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
