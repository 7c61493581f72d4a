"""A made-up stage, of one row, one class and one shim: what it costs to add one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from deployments.options.stages import BatchingStageOptions, StagesConfig
from deployments.stage_table import STAGES, StageRow
from deployments.stages.shim import BatchingShim
from pipelines.contracts import ServiceTerms
from pipelines.tracing.spans import Spans, Timings


class Shouter:
    """The stage: knows nothing of Ray."""

    def shout(self, words: Sequence[str]) -> list[str | Exception]:
        return [word.upper() if word else ValueError("nothing to shout") for word in words]


TOY = StageRow(
    name="Shouter",
    key="shouter",
    shim="tests.deployments.toy_stage:ShouterShim",
    takes=("options",),
    place="after_latents",
    phase="shout",
)

WEIGHTY = replace(TOY, takes=("spec", "options", "weights"))
"""The same, with weights of its own, of which no family knows."""


class ShouterOptions(BatchingStageOptions):
    """The pool that shouts."""

    section: ClassVar[str] = "shouter"
    live: ClassVar[tuple[str, ...]] = ("max_batch_size", "autoscaling")


class ToyConfig(StagesConfig):
    """All stages, and one more."""

    table: ClassVar[tuple[StageRow, ...]] = (*STAGES, TOY)

    shouter: ShouterOptions = Field(default_factory=ShouterOptions)
    """Words to louder words."""


class WeightyConfig(ToyConfig):
    """With the toy that has weights."""

    table: ClassVar[tuple[StageRow, ...]] = (*STAGES, WEIGHTY)


class ShouterShim(BatchingShim[ShouterOptions, str, str]):
    """Ray Serve deployment over `Shouter`."""

    def __init__(self, options: ShouterOptions) -> None:
        super().__init__(TOY.name, options, phase=TOY.phase)
        with self._starting():
            self._stage = Shouter()
        self._start_batching(self._stage.shout, key=lambda word: None)

    async def shout(
        self, word: str, terms: ServiceTerms = ServiceTerms()
    ) -> tuple[str, Timings, Spans]:
        """The word, louder, with its seconds by phase and its spans. Raises StageFailed."""
        with self._boundary.call():
            louder, timings, spans = await self._submit(word, terms)
            return str(louder), timings, spans
