"""Preview: what crosses from the previewer to whoever looks. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What one work will be, as predicted after `step` of `num_steps` forwards: the bytes of an
    image file of `media_type`, `width` x `height` pixels."""

    work_id: str
    step: int
    num_steps: int
    data: bytes
    media_type: str
    width: int
    height: int
