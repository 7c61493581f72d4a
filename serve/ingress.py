"""The ingress deployment: the ASGI application on a replica of its own.

A thin shim: it opens what the routes need and lets `serve.http` make the application, once the
replica runs (late-bound, so that nothing is pickled but settings). Imports no torch.
"""

from __future__ import annotations

from typing import Any

import ray.serve
from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from deployments.graph import Graph, StageHandles
from deployments.storage import open_store
from pipelines.catalog import ModelSpec
from pipelines.moderation import PromptRules
from serve.api.admission import Admission
from serve.api.services import Services
from serve.config import Settings
from serve.http import create_app

INGRESS_NAME = "Ingress"
"""The deployment's name: configurations and dashboards use it."""


# Ray's decorators are untyped.
@ray.serve.ingress()  # pyright: ignore[reportUnknownMemberType, reportUntypedClassDecorator]
class Ingress:
    """HTTP in front of the graph. `handles` are the stages by their keys in `StagesConfig`."""

    def __init__(
        self,
        settings: Settings,
        spec: ModelSpec,
        rules: PromptRules | None,
        handles: dict[str, DeploymentHandle[Any]],
    ) -> None:
        self._services = Services(
            settings=settings,
            spec=spec,
            graph=Graph(StageHandles(**handles)),
            store=open_store(settings.stages.storage),
            rules=rules,
            admission=Admission(settings.limits.max_queued_requests),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve's proxies put x-request-id on every response themselves.
        return create_app(self._services, echo_request_id=False)
