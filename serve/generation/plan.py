"""Plan: what is to be drawn for one request, every value final, and when it is wanted.

Knows neither the body it was written in nor the clock: the time of arrival comes in as an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipelines.contracts import FinishSpec, GenerationParams, ServiceTerms
from pipelines.pictures.recipe import PictureRecipe

ResolvedQuality = Literal["low", "medium", "high"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Punctuality:
    """How an answer stands to its deadline: milliseconds from the request's arrival, rounded up."""

    deadline_ms: int
    took_ms: int

    @property
    def is_met(self) -> bool:
        """Whether the answer was there in time."""
        return self.took_ms <= self.deadline_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedTerms:
    """When a request is wanted: milliseconds after its arrival, or None for no deadline.

    With `is_deadline_asked` the client has named the deadline, else it is the server's default.
    With `refuses_late`, a deadline that cannot be kept is answered with an error at once.
    """

    deadline_ms: int | None
    is_deadline_asked: bool = False
    refuses_late: bool
    priority: int

    def terms(self, *, tenant: str, arrived: float) -> ServiceTerms:
        """The terms of `tenant` for a request that arrived at `arrived`, Unix seconds."""
        return ServiceTerms(
            tenant=tenant,
            deadline=None if self.deadline_ms is None else arrived + self.deadline_ms / 1000,
            priority=self.priority,
            refuses_late=self.refuses_late,
        )

    def punctuality(self, elapsed_s: float) -> Punctuality | None:
        """Of an answer so long after the request's arrival; None without a deadline."""
        if self.deadline_ms is None:
            return None
        took_ms = math.ceil(max(0.0, elapsed_s) * 1000)
        return Punctuality(deadline_ms=self.deadline_ms, took_ms=took_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done for one request, and when it is wanted.

    `recipes` are those of `params.pictures`, of no tenant yet. `quality` is None when the request
    named its steps; `revised_prompt` is None when the prompt was taken word for word.
    """

    params: GenerationParams
    finish: FinishSpec
    recipes: tuple[PictureRecipe, ...] = ()
    requested: RequestedTerms
    quality: ResolvedQuality | None
    revised_prompt: str | None
    warnings: tuple[str, ...]
