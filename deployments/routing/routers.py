"""How calls find their replica, and how this process learns which replicas there are.

Works go to the denoiser replica that will finish them first.

Serve's own router takes the less busy of two replicas, by requests in flight: a large image counts
like a small one, and the n images of a request often meet. This one goes by seconds of work, from
what replicas report through `record_routing_stats`; see `backlog.py`. Where a report is missing or
stale, it does as Serve's own, which all other stages have.

Routers are also who is told, in each process, of replicas that come and go: they pass it on to
`pools.py`. This module travels by value, that one by its name, or the graph would know another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from deployments.routing.backlog import STALE_S, Report, called_shape
from deployments.routing.pools import pool_of
from deployments.routing.sticky import StickyReplicas
from pipelines.job_shape import JobShape


class PoolMixin(RequestRouter):
    """Tells `pools.py` how many replicas run."""

    def initialize_state(self, **_: Any) -> None:
        """Called by Serve, once."""
        name = self._deployment_id
        self._pool = pool_of(name.app_name, name.name)
        self._pool.cold.opened(time.perf_counter())

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve when replicas or their reports have changed."""
        super().update_replicas(replicas)
        self._pool.cold.runs(len(replicas), time.perf_counter())


class LessBusyRouter(StickyReplicas, PoolMixin, PowerOfTwoChoicesRequestRouter):
    """Serve's own choice, of a class that Serve does not export."""


class FinishFirstRouter(StickyReplicas, PoolMixin, FIFOMixin, RequestRouter):
    """A `RequestRouter` of Ray Serve, in every process that calls the deployment.

    First in, first out, as the calls that one request makes share the id by which Serve would tell
    them apart. So a choice may go to the next in line, which is told in `on_request_routed`.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """All candidates, the one that will finish first in front; Serve takes the first that has
        room."""
        if pending_request is None:
            return _two_of(candidate_replicas)
        pending_request.routing_context.should_backoff = True  # or Serve asks again without a pause
        now = time.time()
        shape = called_shape(pending_request.args, pending_request.kwargs)
        reports = [_fresh(replica, now) for replica in candidate_replicas]
        if shape is None or None in reports:
            return _two_of(candidate_replicas)
        ranked = self._ranked(candidate_replicas, reports, shape, now)
        if ranked:
            first, report = ranked[0]
            # Now and not once it is routed: the next image of the request is chosen for meanwhile.
            self._pool.backlogs.sent(
                pending_request, _name(first.replica_id), report.share_s(shape), now
            )
        return [[replica] for replica, _ in ranked]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Called by Serve."""
        self._pool.backlogs.moved(pending_request, _name(replica_id))

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve when replicas or their reports have changed."""
        super().update_replicas(replicas)
        reports = {_name(each.replica_id): Report.read(each.routing_stats) for each in replicas}
        self._pool.backlogs.heard(reports, time.time())

    def _ranked(
        self,
        replicas: Sequence[RunningReplica],
        reports: Sequence[Report | None],
        shape: JobShape,
        now: float,
    ) -> list[tuple[RunningReplica, Report]]:
        pairs = [
            (replica, report)
            for replica, report in zip(replicas, reports, strict=True)
            if report is not None
        ]
        random.shuffle(pairs)  # so that several callers do not all prefer the same of equal ones
        return sorted(
            pairs,
            key=lambda pair: self._pool.backlogs.finish_s(
                _name(pair[0].replica_id), pair[1], shape, now
            ),
        )


def _fresh(replica: RunningReplica, now: float) -> Report | None:
    report = Report.read(replica.routing_stats)
    return report if report is not None and now - report.at <= STALE_S else None


def _two_of(replicas: Sequence[RunningReplica]) -> list[list[RunningReplica]]:
    """Of the replicas in one rank, Serve takes the one with fewer requests."""
    return [random.sample(list(replicas), min(2, len(replicas)))] if replicas else []


def _name(replica_id: ReplicaID) -> str:
    return replica_id.unique_id
