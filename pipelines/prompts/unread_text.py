"""What a prompt said in vain: part of `Conditioning`, so it crosses from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadText:
    """What of a prompt the text encoders did not take in, as the client wrote it.

    `dropped_text` is the end that did not fit into T5's `max_sequence_length`,
    `pooled_dropped_text` the end that did not fit into CLIP, each "" if all of it did.
    `unknown_words` became unknown tokens; `marks` mean tokens of the encoders' own.
    """

    dropped_text: str = ""
    pooled_dropped_text: str = ""
    unknown_words: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
