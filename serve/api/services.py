"""What the routes work with: the model, the limits, and the doors to the rest of the system.

The graph and the store are protocols, so that the HTTP side is tested without Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from deployments.storage import StoredFile
from pipelines.catalog import ModelSpec
from pipelines.contracts import GenerationJob, GenerationResult
from pipelines.moderation import PromptRules
from serve.api.admission import Admission
from serve.config import Settings


class ImageGraph(Protocol):
    """Runs one job through all stages; `deployments.graph.Graph` in the product."""

    async def generate(self, job: GenerationJob) -> GenerationResult:
        """All images of `job`; raises the errors of `pipelines.errors`. Can be cancelled."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Whether each stage, by its name, has a healthy replica."""
        ...


class ReadableStore(Protocol):
    """Where finished files are read from; `deployments.storage` in the product."""

    def get(self, file_id: str) -> StoredFile:
        """The file; blocks. Raises FileNotStored, StageFailed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One ingress replica's collaborators. `rules` is None where prompts are not checked."""

    settings: Settings
    spec: ModelSpec
    graph: ImageGraph
    store: ReadableStore
    rules: PromptRules | None
    admission: Admission

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names that requests may use for the model, the advertised one first."""
        return tuple(dict.fromkeys((self.settings.model_id, self.spec.name)))


def services_of(request: Request) -> Services:
    """The services of the application that serves `request`."""
    return request.app.state.services
