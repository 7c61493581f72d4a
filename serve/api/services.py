"""What the routes work with: the model, the limits, and the doors to the rest of the system.

The graph and the store are protocols, so that the HTTP side is tested without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Self

from starlette.requests import Request

from deployments.broadcast import AskAll
from deployments.graph.image_graph import ImageGraph
from deployments.graph.running_stages import Running
from deployments.storage.store import FileStore
from pipelines.catalog import ModelSpec
from pipelines.moderation import PromptRules
from pipelines.tasks import Task
from pipelines.tracing.spans import Attributes
from serve.api.concurrency_limit import ConcurrencyLimit
from serve.api.pictures.fetching import PictureFetcher
from serve.generation.admission import Admission
from serve.generation.prompt_check import PromptCheck
from serve.generation.result_cache import ResultCache
from serve.generation.service import GenerationService
from serve.generation.sharing import Sharing
from serve.jobs.service import JobService
from serve.jobs.store.open_store import Store
from serve.load.load_reader import AskCluster, LoadReader, LoadSources, no_cluster
from serve.settings.settings import Settings
from serve.shutdown import Shutdown
from serve.tracing.archive import Archive
from serve.tracing.recorder import Recorder, Sink
from serve.tracing.store import TraceStore
from serve.webhooks.webhooks import Webhooks

NodeMetrics = Callable[[], Awaitable[bytes | None]]
"""The text for Prometheus; None where it cannot be read."""

AskRunning = Callable[[], Awaitable[Running]]
"""What draws here now."""


def _empty_context(_: str) -> Context:
    return Context()


async def _no_metrics() -> bytes | None:
    return None


async def _nothing_runs() -> Running:
    return Running()


def _tasks(spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    """What the model does with the stages that are there."""
    encoder = settings.stages.image_encoder
    more = () if encoder.variations is None else (Task.VARIATION,)
    tasks = tuple(dict.fromkeys((*spec.tasks, *more)))
    if encoder.enabled is False:
        return tuple(task for task in tasks if task == Task.TEXT_TO_IMAGE)
    return tasks


@dataclass(slots=True, kw_only=True)
class Services:
    """One ingress replica's collaborators.

    `pictures` fetches those behind URLs; ControlNets here follow maps of `control_kinds`. `now` is
    Unix time in seconds: deadlines are compared with clocks of other machines.
    """

    settings: Settings
    spec: ModelSpec
    graph: ImageGraph
    store: FileStore
    generations: GenerationService
    recorder: Recorder
    traces: TraceStore
    archive: Archive
    webhooks: Webhooks
    load: LoadReader
    pictures: PictureFetcher
    control_kinds: Collection[str] = ()
    node_metrics: NodeMetrics = _no_metrics
    running: AskRunning = _nothing_runs
    file_reads: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    shutdown: Shutdown = field(default_factory=Shutdown)
    jobs: JobService | None = None
    now: Callable[[], float] = time.time

    @classmethod
    def over(
        cls,
        graph: ImageGraph,
        store: FileStore,
        *,
        settings: Settings,
        spec: ModelSpec,
        rules: PromptRules | None,
        context_of: Callable[[str], Context] = _empty_context,
        now: Callable[[], float] = time.time,
        resource: Attributes | None = None,
        sinks: Sequence[Sink] = (),
        ask_all: AskAll | None = None,
        node_metrics: NodeMetrics = _no_metrics,
        running: AskRunning = _nothing_runs,
        cluster_load: AskCluster = no_cluster,
        job_store: Store | None = None,
        replica: str = "",
    ) -> Self:
        """Services as `settings` say; without `rules`, prompts are not checked. `context_of` makes
        the context in which the job of a request id is drawn: not the request's own, because equal
        requests share it. Traces are of `resource`, and go to `sinks` besides the store; `ask_all`
        asks all ingress replicas for theirs. `node_metrics` reads what this node exports for
        Prometheus, `running` asks the stages what they draw with, and `cluster_load` what the
        cluster tells of the application's replicas. Without a `job_store` there are no jobs;
        `replica` is the name under which they are held."""
        spec = replace(spec, tasks=_tasks(spec, settings))
        limits, cache = settings.limits, settings.result_cache
        traces = TraceStore(settings.tracing.max_spans, settings.tracing.max_bytes)
        generations = GenerationService(
            graph=graph,
            prompts=PromptCheck(rules),
            admission=Admission(limits.max_queued_images, limits.max_queued_images_per_tenant),
            sharing=Sharing(
                graph.generate,
                store.get,
                ResultCache(cache.max_bytes, cache.ttl_s),
                context_of=context_of,
            ),
            model=settings.model_id,
            records_prompts=settings.tracing.record_prompts,
            now=now,
        )
        services = cls(
            settings=settings,
            spec=spec,
            graph=graph,
            store=store,
            generations=generations,
            recorder=Recorder(settings.tracing, (traces, *sinks), resource),
            traces=traces,
            archive=Archive(traces, ask_all),
            webhooks=Webhooks(settings.webhooks, job_store, now=now),
            load=LoadReader(
                generations.load,
                LoadSources(ask_all=ask_all, cluster=cluster_load),
                model=settings.model_id,
                tenants=settings.tenants,
                now=now,
            ),
            pictures=PictureFetcher(settings.pictures),
            control_kinds=[
                kind for each in settings.stages.denoiser.controlnets for kind in each.kinds
            ],
            node_metrics=node_metrics,
            running=running,
            now=now,
        )
        if job_store is not None:
            services.jobs = JobService(
                job_store,
                services.generations,
                store,
                settings=lambda: services.settings,
                spec=spec,
                recorder=services.recorder,
                holder=replica,
                now=now,
                context_of=context_of,
                ask_all=ask_all,
                shutdown=services.shutdown,
            )
            services.load.sources.jobs = services.jobs.active
        return services

    def take_over(self, settings: Settings) -> None:
        """Go by other limits and deadlines from the next request on; nothing else may differ."""
        self.settings = settings
        self.generations.admission.bound(
            settings.limits.max_queued_images, settings.limits.max_queued_images_per_tenant
        )

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names that requests may use for the model, the advertised one first."""
        return tuple(dict.fromkeys((self.settings.model_id, self.spec.name)))


def services_of(request: Request) -> Services:
    """The services of the application that serves `request`."""
    return request.app.state.services
