"""A runner's hold of a job: renewed again and again, and what it hears meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest

from pipelines.errors import StoreUnavailable
from serve.jobs.job import JobAction
from serve.jobs.running import job_run, lease_keeper
from serve.jobs.running.lease_keeper import LEASE_S, RENEW_EVERY_S, LeaseKeeper
from serve.jobs.store.job_store import JobStore, Lease, LeaseLost
from tests.serve.jobs.conftest import ReplicaOf
from tests.serve.jobs.store.samples import a_job

AWAY = StoreUnavailable("the store is away")


class Renewals:
    """Answers each renewal as the next of `answers` does, and after these as one that is lost."""

    def __init__(self, answers: Sequence[JobAction | Exception | None]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str, float]] = []

    async def renew(self, job_id: str, token: str, *, lease_s: float) -> JobAction | None:
        self.asked.append((job_id, token, lease_s))
        answer = self._answers.pop(0) if self._answers else LeaseLost(job_id)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def held(*answers: JobAction | Exception | None) -> tuple[Renewals, list[JobAction], Lease]:
    """What was asked, and what was heard, until the lease is lost."""
    lease = Lease(job=a_job("job_1"), token="mine", parts={})
    renewals, heard = Renewals(answers), list[JobAction]()
    store: Any = renewals
    keeper = LeaseKeeper(cast("JobStore", store), lease, heard.append, every_s=0.0)
    with pytest.raises(LeaseLost):
        await keeper.run()
    return renewals, heard, lease


async def test_it_is_renewed_until_it_is_lost():
    renewals, _, lease = await held(None, None, None)
    assert renewals.asked == [(lease.job.id, "mine", LEASE_S)] * 4


async def test_what_the_owner_wants_is_heard():
    _, heard, _ = await held(None, JobAction.KEEP, None, JobAction.CANCEL)
    assert heard == [JobAction.KEEP, JobAction.CANCEL]


async def test_a_store_that_is_away_is_asked_again():
    renewals, heard, _ = await held(AWAY, AWAY, JobAction.CANCEL)
    assert len(renewals.asked) == 4
    assert heard == [JobAction.CANCEL]


async def test_it_waits_between_two(monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(lease_keeper.asyncio, "sleep", sleep)
    store: Any = Renewals([None, AWAY])
    lease = Lease(job=a_job("job_1"), token="mine", parts={})
    with pytest.raises(LeaseLost):
        await LeaseKeeper(store, lease, lambda _: None).run()
    assert waited == [RENEW_EVERY_S] * 3
    assert 3 * RENEW_EVERY_S < LEASE_S, "two renewals may fail"


async def test_a_run_renews_what_it_holds(replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_run, "LeaseKeeper", partial(LeaseKeeper, every_s=0.0))
    replica = await replica_of()
    renew, renewed = replica.store.renew, asyncio.Event()

    async def seen(*arguments: Any, **named: Any) -> Any:
        renewed.set()
        return await renew(*arguments, **named)

    monkeypatch.setattr(replica.store.store, "renew", seen)
    job = await replica.submit()
    await renewed.wait()
    replica.graph.allow()
    assert (await replica.over(job)).status == "succeeded"
