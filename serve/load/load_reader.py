"""LoadReader: puts together what the ingress replicas, the cluster and the store of jobs tell.

Asks no Ray itself, and knows no HTTP. Each of the three may fail or be slow without taking the
others along: what it would have told is null.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from deployments.broadcast import AskAll
from deployments.metrics.instruments import NO_TENANT, OTHER_TENANTS
from deployments.replica_load import ReplicaLoad
from deployments.single_flight import SingleFlight
from pipelines.errors import StoreUnavailable
from serve.load.recent_requests import WINDOW_S, IngressLoad
from serve.load.server_load import (
    DeadlineCounts,
    DenoiserLoad,
    DeploymentLoad,
    RequestCounts,
    ServerLoad,
    TenantLoad,
)
from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name

logger = logging.getLogger("ray.serve")

_FRESH_S = 1.0
"""For so long an answer is given again, whoever asks: the cluster is not asked more often."""
_MAX_TENANTS = 20
"""Of those with the most to do; the others are one, `OTHER_TENANTS`."""
_QUEUED, _RUNNING = "queued", "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLoad:
    """What Serve and the denoisers tell; None for what was not to be had."""

    deployments: Sequence[DeploymentLoad] | None = None
    denoisers: Sequence[ReplicaLoad] | None = None


AskCluster = Callable[[], Awaitable[ClusterLoad]]

JobCounts = Mapping[tuple[str, str], int]
"""Jobs that are not over, by (tenant, status)."""


async def no_cluster() -> ClusterLoad:
    """Where there is no cluster to ask."""
    return ClusterLoad()


async def no_jobs() -> JobCounts | None:
    """Where jobs are not counted."""
    return None


@dataclass(slots=True, kw_only=True)
class LoadSources:
    """Who is asked. `ask_all` is of all ingress replicas; without, there is only this one."""

    ask_all: AskAll | None = None
    cluster: AskCluster = no_cluster
    jobs: Callable[[], Awaitable[JobCounts | None]] = no_jobs


class LoadReader:
    """Of one ingress replica. `own` is what this one has to tell."""

    def __init__(
        self,
        own: Callable[[], IngressLoad],
        sources: LoadSources,
        *,
        model: str,
        tenants: Tenants,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.own = own
        self.sources = sources
        self._model = model
        self._tenancy = tenants
        self._now = now
        self._flight: SingleFlight[None, ServerLoad] = SingleFlight()
        self._last: ServerLoad | None = None

    async def read(self) -> ServerLoad:
        """The application's load, at most a second old."""
        if self._last is None or not 0 <= self._now() - self._last.at < _FRESH_S:
            self._last = await self._flight.run(None, self._read)
        return self._last

    async def _read(self) -> ServerLoad:
        ingresses, cluster, jobs = await asyncio.gather(
            self._ingresses(), self.sources.cluster(), self._jobs()
        )
        outcomes, deadlines = Counter[str](), Counter[str]()
        in_flight = Counter[str]()
        for each in ingresses:
            outcomes.update(each.outcomes)
            deadlines.update(each.deadlines)
            in_flight.update(each.in_flight)
        per_s = sum(sum(each.outcomes.values()) / each.seconds for each in ingresses)
        return ServerLoad(
            at=self._now(),
            window_s=WINDOW_S,
            model=self._model,
            ingress_replicas=len(ingresses),
            deployments=None if cluster.deployments is None else tuple(cluster.deployments),
            denoisers=None if cluster.denoisers is None else _denoisers(cluster.denoisers),
            requests=RequestCounts(
                per_s=per_s, outcomes=dict(outcomes), images_in_flight=in_flight.total()
            ),
            deadlines=DeadlineCounts(
                met=deadlines["met"], missed=deadlines["missed"], refused=deadlines["refused"]
            ),
            jobs=None if jobs is None else _by_status(jobs),
            tenants=self._tenants(in_flight, jobs),
        )

    async def _ingresses(self) -> list[IngressLoad]:
        if self.sources.ask_all is None:
            return [self.own()]
        told: list[IngressLoad] = []
        for answer in await self.sources.ask_all("ingress_load"):
            if isinstance(answer, IngressLoad):
                told.append(answer)
            else:
                logger.warning("an ingress replica does not tell of its load: %s", answer)
        return told

    async def _jobs(self) -> JobCounts | None:
        try:
            return await self.sources.jobs()
        except StoreUnavailable as error:
            logger.warning("jobs cannot be counted: %s", error.message)
            return None

    def _tenants(self, in_flight: Counter[str], jobs: JobCounts | None) -> tuple[TenantLoad, ...]:
        waiting = {key: count for key, count in (jobs or {}).items() if key[1] == _QUEUED}
        running = {key: count for key, count in (jobs or {}).items() if key[1] == _RUNNING}
        queued_by = Counter({tenant: count for (tenant, _), count in waiting.items()})
        running_by = Counter({tenant: count for (tenant, _), count in running.items()})
        ranked = [tenant for tenant, _ in (in_flight + queued_by + running_by).most_common()]
        shown, rest = ranked[:_MAX_TENANTS], ranked[_MAX_TENANTS:]

        def load(name: str, tenants: Sequence[str]) -> TenantLoad:
            return TenantLoad(
                tenant=name,
                images_in_flight=sum(in_flight[each] for each in tenants),
                queued_jobs=None if jobs is None else sum(queued_by[each] for each in tenants),
                running_jobs=None if jobs is None else sum(running_by[each] for each in tenants),
            )

        loads = [load(shown_name(each, self._tenancy) or NO_TENANT, [each]) for each in shown]
        return tuple(loads if not rest else [*loads, load(OTHER_TENANTS, rest)])


def _denoisers(loads: Sequence[ReplicaLoad]) -> tuple[DenoiserLoad, ...]:
    """The busiest first."""
    return tuple(
        DenoiserLoad(
            replica=load.replica,
            images=load.works,
            queued_s=load.queued_s,
            tick_tokens=load.tick_tokens,
            tick_s=load.tick_s,
            knee_tokens=load.knee_tokens,
            knee_s=load.knee_s,
        )
        for load in sorted(loads, key=lambda load: (-load.queued_s, load.replica))
    )


def _by_status(jobs: JobCounts) -> dict[str, int]:
    counts = Counter[str]()
    for (_, status), count in jobs.items():
        counts[status] += count
    return dict(counts)
