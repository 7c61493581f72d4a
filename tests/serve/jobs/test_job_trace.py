"""What the trace of a job says of it, however it ended."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from serve.jobs.job import Job, JobEvent, JobStatus, Owner
from serve.jobs.job_trace import LOST
from serve.jobs.running import job_run
from serve.jobs.running.lease_keeper import LeaseKeeper
from serve.jobs.store.job_store import LeaseLost
from serve.tracing.job_spans import JOB, RUN, job_span_id
from serve.tracing.recorder import Trace
from tests.serve.jobs.conftest import OWNER, Replica, ReplicaOf

TRACE = "a" * 32


def of(job: Job, replica: Replica, name: str) -> list[Trace]:
    traces = replica.services.traces.get(job.trace_id)
    return [trace for trace in traces if trace.root.name == name]


async def submitted(replica: Replica, **body: Any) -> Job:
    return await replica.submit(trace_id=TRACE, **body)


async def recorded(replica: Replica, job: Job) -> Trace:
    """Its span, which comes a moment after its last event."""
    async with asyncio.timeout(60):
        while not (found := of(job, replica, JOB)):  # noqa: ASYNC110  nobody tells of it
            await asyncio.sleep(0.001)
    (trace,) = found
    return trace


async def test_from_its_submission_to_its_end(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.allow()
    job = await replica.over(await submitted(replica, n=2, size="64x64", deadline_ms=60_000))
    trace = await recorded(replica, job)
    root, said = trace.root, trace.root.attributes
    assert root.id == job_span_id(job.id)
    assert root.error is None
    assert job.finished_at is not None
    assert job.started_at is not None
    assert (root.end_ns - root.start_ns) / 1e9 == pytest.approx(
        job.finished_at - job.created_at, abs=1e-6
    )
    assert said["sluice.outcome"] == "succeeded"
    assert (said["gen_ai.request.choice.count"], said["sluice.size"]) == (2, "64x64")
    assert (said["sluice.steps"], said["gen_ai.request.seed"]) == (4, 7)
    assert said["sluice.steps_run"] == 8
    assert said["sluice.tenant"] == OWNER.tenant
    assert (said["sluice.deadline_ms"], said["sluice.deadline_met"]) == (60_000, True)
    assert said["sluice.queued_s"] == job.started_at - job.created_at
    (queue,) = root.children
    assert (queue.name, queue.start_ns) == ("queue.wait", root.start_ns)
    (run,) = of(job, replica, RUN)
    assert run.parent_id == root.id


async def test_a_lease_that_ends_with_the_job_does_not_take_its_span_along(
    replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(job_run, "LeaseKeeper", partial(LeaseKeeper, every_s=0.0))
    replica = await replica_of()
    store = replica.store.store
    events, is_over = store.events, asyncio.Event()

    async def renew(job_id: str, *_: Any, **__: Any) -> None:
        if is_over.is_set():
            raise LeaseLost(job_id)

    async def events_in_their_time(job_id: str, **given: Any) -> tuple[JobEvent, ...]:
        job = await store.get(job_id)
        if job is not None and job.status.is_final:
            is_over.set()
            for _ in range(20):  # turns, in which a lease would be renewed
                await asyncio.sleep(0)
        return await events(job_id, **given)

    monkeypatch.setattr(store, "renew", renew)
    monkeypatch.setattr(store, "events", events_in_their_time)
    replica.graph.allow()
    job = await replica.over(await submitted(replica))
    assert (await recorded(replica, job)).root.attributes["sluice.outcome"] == "succeeded"
    assert is_over.is_set()


async def test_one_that_is_cancelled_in_the_queue(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await submitted(replica)
    for _ in range(2):
        await replica.jobs.cancel(job.id, OWNER)
    root = (await recorded(replica, job)).root
    assert (root.attributes["sluice.outcome"], root.error) == ("cancelled", None)
    assert [(part.start_ns, part.end_ns) for part in root.children] == [
        (root.start_ns, root.end_ns)
    ]


async def test_one_that_is_cancelled_by_two_at_once(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await submitted(replica)
    await asyncio.gather(*(replica.jobs.cancel(job.id, OWNER) for _ in range(2)))
    await recorded(replica, job)  # which is one


async def test_one_that_is_cancelled_while_it_runs(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await submitted(replica)
    await replica.until(job, "job.running")
    await replica.jobs.cancel(job.id, OWNER)
    job = await replica.over(job)
    assert job.status is JobStatus.CANCELLED
    assert (await recorded(replica, job)).root.attributes["sluice.outcome"] == "cancelled"


async def test_one_whose_runner_was_lost(replica_of: ReplicaOf):
    first = await replica_of()
    job = await submitted(first)
    await first.until(job, "job.running")
    first.store.is_cut = True
    second = await replica_of(hasty=2)
    second.graph.allow()
    job = await second.jobs.wait(job.id, Owner(tenant=job.tenant), 60.0)
    root = (await recorded(second, job)).root
    assert root.attributes["sluice.attempts"] == 2
    _, lost = root.children
    assert (lost.name, lost.error, lost.attributes["sluice.attempt"]) == (RUN, LOST, 1)
    (run,) = of(job, second, RUN)
    assert run.root.attributes["sluice.attempt"] == 2


async def test_what_is_not_recorded_has_none(replica_of: ReplicaOf):
    replica = await replica_of(tracing={"sample_ratio": 0.0})
    replica.graph.allow()
    job = await replica.over(await submitted(replica))
    assert await replica.jobs.wait(job.id, OWNER, 60.0)
    assert replica.services.traces.get(TRACE) == []
