"""Replicas of an application over one store of jobs, each with a graph of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StoreUnavailable
from pipelines.moderation import PromptRules
from serve.api.planning import plan_of
from serve.api.schemas import parse_request
from serve.api.services import Services
from serve.jobs.job import Job, Owner
from serve.jobs.service import JobService
from serve.jobs.store.job_store import SubmittedJob
from serve.jobs.store.open_store import Store
from serve.jobs.store.sqlite import SqliteStore
from serve.jobs.submission import Submission
from tests.serve.fakes import FakeStore, services
from tests.serve.jobs.stepping_graph import SteppingGraph

OWNER = Owner(tenant="atelier")


class Hasty:
    """A clock by which every lease has run out at the second look, for so many looks."""

    def __init__(self, looks: int) -> None:
        self._now = 0.0
        self._looks = looks

    def __call__(self) -> float:
        if self._looks > 0:
            self._looks -= 1
            self._now += 60.0
        return self._now


class Cuttable:
    """A store that can be cut off from who uses it, as by a network."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_cut = False
        self.loses_answers = False
        self._answered: list[tuple[Any, ...]] = []

    async def update(self, *arguments: Any) -> Job:
        """Each update is stored, and only the second attempt is answered if answers get lost."""
        job = await self.__getattr__("update")(*arguments)
        if self.loses_answers and arguments not in self._answered:
            self._answered.append(arguments)
            raise StoreUnavailable("the answer was lost", retry_after_s=0.01)
        return job

    def __getattr__(self, name: str) -> Any:
        if self.is_cut and name != "close":

            async def away(*_: Any, **__: Any) -> None:
                raise StoreUnavailable("the store is away", retry_after_s=0.01)

            return away
        return getattr(self.store, name)


@dataclass(frozen=True, slots=True)
class Replica:
    """An ingress replica without HTTP."""

    services: Services
    graph: SteppingGraph
    store: Cuttable

    @property
    def jobs(self) -> JobService:
        assert self.services.jobs is not None
        return self.services.jobs

    async def submit(
        self, *, key: str | None = None, tenant: str = "atelier", trace_id: str = "", **body: Any
    ) -> Job:
        return (await self.submitted(key=key, tenant=tenant, trace_id=trace_id, **body)).job

    async def submitted(
        self, *, key: str | None = None, tenant: str = "atelier", trace_id: str = "", **body: Any
    ) -> SubmittedJob:
        body = {"prompt": "a cat", "seed": 7, "num_inference_steps": 4, **body}
        return await self.jobs.submit(
            Submission(
                body=body,
                plan=plan_of(self.services, parse_request(body)),
                tenant=tenant,
                idempotency_key=key,
                trace_id=trace_id,
                arrived=self.services.now(),
            )
        )

    async def over(self, job: Job) -> Job:
        """The job once it is over."""
        return await self.jobs.wait(job.id, Owner(tenant=job.tenant), 60.0)

    async def until(self, job: Job, event: str) -> None:
        """Until an event of that type is stored."""
        async for each in self.jobs.events(job.id, Owner(tenant=job.tenant)):
            if each.type == event:
                return


ReplicaOf = Callable[..., Awaitable[Replica]]
StoreOf = Callable[[Callable[[], float]], Store]

TTL_S = 1000.0


@pytest.fixture
def store_of(tmp_path: Path) -> StoreOf:
    """Makes another store over the test's data, that leases run out in by a clock."""
    return lambda clock: SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=TTL_S, clock=clock)


@pytest.fixture
async def replica_of(store_of: StoreOf) -> AsyncIterator[ReplicaOf]:
    """Makes another replica over the test's store, which runs jobs unless told otherwise; one that
    is `hasty` takes, in so many looks, what is held by others who do not renew it."""
    made: list[Replica] = []
    files = FakeStore()

    async def make(*, runs: bool = True, hasty: int = 0, **settings: Any) -> Replica:
        store: Any = Cuttable(store_of(Hasty(hasty) if hasty else time.monotonic))
        graph = SteppingGraph(store=files)
        settings = {"jobs.poll_s": 0.01, **settings}
        given = services(graph, rules=PromptRules.load(), job_store=store, **settings)
        replica = Replica(given, graph, store)
        await replica.jobs.open()
        if runs:
            replica.jobs.start()
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.store.is_cut = False
        await replica.jobs.close()
