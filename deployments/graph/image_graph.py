"""ImageGraph: what every graph offers, so that several can stand side by side."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from deployments.graph.forecast import Forecast
from deployments.graph.progress import Listener
from pipelines.contracts import GenerationJob, GenerationParams, GenerationResult
from pipelines.tracing.open_spans import OpenSpan


class ImageGraph(Protocol):
    """Runs jobs through all stages: `Graph` over the stages' deployments, `RemoteGraph` over fused
    ones."""

    def generate(
        self, job: GenerationJob, log: OpenSpan, listener: Listener
    ) -> Coroutine[Any, Any, GenerationResult]:
        """All images of `job`; raises the errors of `pipelines.errors`. Can be cancelled. What is
        done is added to `log`, and `listener` is told how far each image is."""
        ...

    def forecast(self, params: GenerationParams) -> Forecast:
        """When such a request would be answered, as far as is known; asks nobody."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Whether each stage, by its name, has a healthy replica."""
        ...
