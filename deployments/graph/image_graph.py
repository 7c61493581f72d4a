"""ImageGraph: what every graph offers, so that several can stand side by side."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from deployments.graph.forecast import Forecast
from deployments.graph.listening.listener import Listener
from deployments.graph.steering.steering import Steering
from deployments.wire.parts import NOTHING_DONE, Part
from pipelines.contracts import GenerationJob, GenerationParams, GenerationResult
from pipelines.tracing.open_spans import OpenSpan


class ImageGraph(Protocol):
    """Runs jobs through all stages: `Graph` over the stages' deployments, `RemoteGraph` over fused
    ones."""

    def generate(
        self,
        job: GenerationJob,
        log: OpenSpan,
        listener: Listener,
        *,
        resume: Mapping[int, Part] = NOTHING_DONE,
        steering: Steering | None = None,
    ) -> Coroutine[Any, Any, GenerationResult]:
        """All images of `job`; raises the errors of `pipelines.errors`. Can be cancelled. What is
        done is added to `log`, and `listener` is told how far each image is.

        Images in `resume` go on from there, to the same bytes, and those that are drawn are not
        drawn again. What `steering` asks is done while they are drawn."""
        ...

    def forecast(self, params: GenerationParams) -> Forecast:
        """When such a request would be answered, as far as is known; asks nobody."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Whether each stage, by its name, has a healthy replica."""
        ...
