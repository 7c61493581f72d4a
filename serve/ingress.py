"""The ingress deployment: the ASGI application on a replica of its own.

A thin shim: it opens what the routes need and lets `serve.http` make the application, once the
replica runs (late-bound, so that nothing is pickled but settings). Imports no torch.
"""

from __future__ import annotations

import logging
from contextvars import Context
from typing import Any, cast

import ray.serve
import ray.serve.context
from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.graph.draining_graph import DrainingGraph
from deployments.graph.graph import Graph
from deployments.graph.remote_graph import RemoteGraph
from deployments.lifecycle.boundary import own_replica
from deployments.names import INGRESS_NAME
from deployments.stage_table import FUSED
from deployments.storage.store import open_store
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from pipelines.moderation import PromptRules
from serve.api.services import Services
from serve.capacity.check_cluster import check_machines
from serve.http import create_app, product_version
from serve.leaving import LeavingMiddleware
from serve.ray_metrics import node_metrics
from serve.settings.reconfigure import live_settings
from serve.settings.settings import Settings
from serve.tracing.archive import roots_of
from serve.tracing.export import resource, sinks
from serve.tracing.recorder import Trace

logger = logging.getLogger("ray.serve")

_ASK_TIMEOUT_S = 5.0
"""For all ingress replicas to tell of their traces."""


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
        # Where the application was built before Ray ran, nobody has looked yet.
        check_machines(settings)
        self._settings = settings
        self._services = Services.over(
            _graph(settings, handles),
            open_store(settings.stages.storage),
            settings=settings,
            spec=spec,
            rules=rules,
            context_of=own_context,
            resource=resource(own_replica(), product_version()),
            sinks=sinks(settings.tracing),
            ask_all=ask_all_ingresses,
            node_metrics=node_metrics,
        )

    async def kept_traces(self, trace_id: str) -> list[Trace]:
        """For other replicas: what this one keeps of a trace."""
        return self._services.traces.get(trace_id)

    async def latest_traces(self) -> list[Trace]:
        """For other replicas: the roots of this one's latest traces."""
        return roots_of(self._services.traces)

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over Serve's `user_config`: sections `limits` and `deadlines`, in place."""
        try:
            self._services.take_over(live_settings(self._settings, user_config or {}))
        except ConfigurationError as error:  # a mistake must not take down what runs
            logger.error("nothing was changed: %s", error.message)

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve's proxies put x-request-id on every response themselves.
        app = create_app(self._services, echo_request_id=False)
        app.add_middleware(LeavingMiddleware)
        return app


def _graph(settings: Settings, handles: dict[str, DeploymentHandle[Any]]) -> Graph | RemoteGraph:
    scales_to_zero = settings.stages.scales_to_zero()
    if settings.stages.layout == "fused":
        return RemoteGraph(handles[FUSED.key], scales_to_zero=scales_to_zero)
    classifies = settings.stages.safety.classifier != "off"
    return DrainingGraph(
        handles,
        classifies=classifies,
        scales_to_zero=scales_to_zero,
        table=settings.stages.table,
    )


async def ask_all_ingresses(method: str, *arguments: Any) -> list[Any]:
    """What each ingress replica of this application answers, or the error that it does not."""
    application = ray.serve.get_replica_context().app_name
    handle = cast(Any, ray.serve).get_deployment_handle(INGRESS_NAME, application)
    response = handle.broadcast(method, *arguments)
    try:
        return await response.results_async(timeout_s=_ASK_TIMEOUT_S, return_exceptions=True)
    except (TimeoutError, RayError, RayServeException) as error:
        return [error]


def own_context(request_id: str) -> Context:
    """A context for calls that outlive the request they are made in, under its id in the logs.

    When a client leaves, Serve cancels the calls of its request that wait for a replica, and finds
    them by this context: what equal requests share must not be found.
    """
    context = Context()
    request = ray.serve.context._get_serve_request_context()  # pyright: ignore[reportPrivateUsage]
    context.run(
        ray.serve.context._set_request_context,  # pyright: ignore[reportPrivateUsage]
        route=request.route,
        request_id=request_id,
        app_name=request.app_name,
    )
    return context
