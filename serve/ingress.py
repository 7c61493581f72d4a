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
from ray.serve.handle import DeploymentHandle

from deployments.graph.draining_graph import DrainingGraph
from deployments.graph.graph import Graph
from deployments.graph.remote_graph import RemoteGraph
from deployments.graph.running_stages import RunningStages
from deployments.lifecycle.boundary import own_replica
from deployments.lifecycle.callers import own_name
from deployments.lifecycle.draining import DrainWatch
from deployments.lifecycle.refusals_in_log import log_refusals_in_one_line
from deployments.names import INGRESS_NAME, StageName
from deployments.stage_table import FUSED
from deployments.storage.store import open_store
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from pipelines.moderation import PromptRules
from serve.access_log import leave_polls_out_of_access_log
from serve.api.services import Services
from serve.capacity.check_cluster import check_machines
from serve.http import create_app, product_version
from serve.jobs.job import JobAction
from serve.jobs.previews import Marker, Shown
from serve.jobs.store.open_store import Store, open_job_store
from serve.leaving import LeavingMiddleware
from serve.load.ray_load import RayLoad, ask_replicas
from serve.load.recent_requests import IngressLoad
from serve.ray_metrics import node_metrics
from serve.settings.reconfigure import live_settings
from serve.settings.settings import Settings
from serve.tracing.archive import roots_of
from serve.tracing.export import resource, sinks
from serve.tracing.recorder import Trace

logger = logging.getLogger("ray.serve")


# Ray's decorators are untyped.
@ray.serve.ingress()  # pyright: ignore[reportUnknownMemberType, reportUntypedClassDecorator]
class Ingress:
    """HTTP in front of the graph. `handles` are the stages by their keys in `StagesConfig`."""

    # Serve awaits it. The store of jobs is opened here, so that a replica does not start without.
    async def __init__(  # pyright: ignore[reportGeneralTypeIssues]
        self,
        settings: Settings,
        spec: ModelSpec,
        rules: PromptRules | None,
        handles: dict[str, DeploymentHandle[Any]],
    ) -> None:
        # Where the application was built before Ray ran, nobody has looked yet.
        check_machines(settings)
        log_refusals_in_one_line()
        leave_polls_out_of_access_log()
        self._settings = settings
        self._services = Services.over(
            _graph(settings, spec, handles),
            open_store(settings.stages.storage),
            settings=settings,
            spec=spec,
            rules=rules,
            context_of=own_context,
            resource=resource(own_replica(), product_version()),
            sinks=sinks(settings.tracing),
            ask_all=ask_all_ingresses,
            node_metrics=node_metrics,
            running=RunningStages(_computing(settings, spec, handles)).ask,
            cluster_load=RayLoad(_denoiser(settings, handles)),
            job_store=_job_store(settings),
            replica=own_name(),
        )
        if self._services.jobs is not None:
            await self._services.jobs.open()
        # Serve waits for what is under way: streams that last as long as a job must end by
        # themselves.
        DrainWatch(self._services.shutdown.begin).start()

    async def kept_traces(self, trace_id: str) -> list[Trace]:
        """For other replicas: what this one keeps of a trace."""
        return self._services.traces.get(trace_id)

    async def latest_traces(self) -> list[Trace]:
        """For other replicas: the roots of this one's latest traces."""
        return roots_of(self._services.traces)

    async def ingress_load(self) -> IngressLoad:
        """For other replicas: what this one has to do, and has done lately."""
        return self._services.generations.load()

    async def job_action(self, job_id: str, action: JobAction) -> None:
        """For other replicas: the owner of a job, which may run here, wants this."""
        if self._services.jobs is not None:
            self._services.jobs.on_action(job_id, action)

    async def job_previews(self, job_id: str, seen: Marker | None) -> Shown | None:
        """For other replicas: what is new of a job that runs here, while somebody watches there;
        answered as soon as there is something."""
        jobs = self._services.jobs
        return None if jobs is None else await jobs.previews(job_id, seen)

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


def _graph(
    settings: Settings, spec: ModelSpec, handles: dict[str, DeploymentHandle[Any]]
) -> Graph | RemoteGraph:
    scales_to_zero = settings.stages.scales_to_zero(spec)
    if settings.stages.layout == "fused":
        return RemoteGraph(handles[FUSED.key], scales_to_zero=scales_to_zero)
    classifies = settings.stages.safety.classifier != "off"
    return DrainingGraph(
        handles,
        classifies=classifies,
        scales_to_zero=scales_to_zero,
        table=settings.stages.rows(spec),
    )


def _computing(
    settings: Settings, spec: ModelSpec, handles: dict[str, DeploymentHandle[Any]]
) -> list[DeploymentHandle[Any]]:
    """The deployments that compute with a part of the model."""
    rows = settings.stages.deployed(spec)
    return [handles[row.key] for row in rows if row is FUSED or row.holds is not None]


def _denoiser(
    settings: Settings, handles: dict[str, DeploymentHandle[Any]]
) -> DeploymentHandle[Any]:
    """The deployment that denoises."""
    row = FUSED if settings.stages.layout == "fused" else StageName.DENOISER
    return handles[row.key]


def _job_store(settings: Settings) -> Store | None:
    jobs = settings.jobs
    return open_job_store(jobs.location, ttl_s=jobs.ttl_s) if jobs.enabled else None


async def ask_all_ingresses(method: str, *arguments: Any) -> list[Any]:
    """What each ingress replica of this application answers, or the error that it does not."""
    application = ray.serve.get_replica_context().app_name
    handle = cast(Any, ray.serve).get_deployment_handle(INGRESS_NAME, application)
    return await ask_replicas(handle, method, *arguments)


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
