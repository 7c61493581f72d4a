"""ReplicaLoad: what a denoiser replica tells of its work, to operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a denoiser replica has to do: `works` images, and `queued_s` seconds of its engine.

    `tick_tokens` and `tick_s` are those of a mean tick of the last seconds, None without any;
    `knee_tokens`, for images of the model's own size, and `knee_s` are where packing more into one
    only makes everybody wait.
    """

    replica: str
    works: int
    queued_s: float
    tick_tokens: float | None = None
    tick_s: float | None = None
    knee_tokens: int | None = None
    knee_s: float | None = None
