"""Lanes: the queue as tenants stand in it, and how much is ahead of a job. Pure.

The highest priority goes first. Of one priority each tenant has a lane, in which the oldest job is
first; of the lanes it is the turn of the tenant with the fewest running jobs, then of the one that
was served longest ago. A job of more images than its runner has places for is passed over for
smaller ones, and so often at most: then nothing goes before it until a runner has the places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from serve.jobs.job import Job
from serve.jobs.store.job_store import QueueFull, Waiting

NEWCOMER = -(1 << 40)
"""Added to the turns of tenants that were never served: they go before all others."""

MICROSECONDS = 1_000_000

MAX_PASSED_OVER = 8
"""Claims for which a job that is next may be passed over."""


def work_us(work_s: float) -> int:
    """Seconds of work in whole microseconds, of which sums are exact."""
    return round(work_s * MICROSECONDS)


class Lane(NamedTuple):
    """Queued jobs of one tenant and priority; `turn` orders tenants, the lowest first."""

    priority: int
    tenant: str
    jobs: int
    work_us: int
    running: int
    turn: int

    @property
    def order(self) -> tuple[int, int]:
        return self.running, self.turn


class Candidate(NamedTuple):
    """A job that can be claimed: a queued one, or one that its runner has left behind."""

    id: str
    priority: int
    images: int
    passed_over: int


class Choice(NamedTuple):
    """The job to be claimed, if any, and the one that is passed over by that."""

    job: Candidate | None
    passed_over: Candidate | None


def first_of(abandoned: Candidate | None, queued: Candidate | None) -> Candidate | None:
    """One that was left behind goes before queued ones of its priority."""
    if abandoned is None or queued is None:
        return abandoned or queued
    return queued if queued.priority > abandoned.priority else abandoned


def choose(first: Candidate | None, fitting: Candidate | None) -> Choice:
    """Of the job that is next, and the next that there are places for."""
    if first is None or first == fitting:
        return Choice(first, None)
    if fitting is None or first.passed_over >= MAX_PASSED_OVER:
        return Choice(None, None)
    return Choice(fitting, first)


def ahead(lanes: Iterable[Lane], mine: Lane, own: Waiting, tenant: str | None) -> Waiting:
    """What is likely to be served before a job of lane `mine` that has `own` before it there.

    All of higher priority, and of each other tenant as many jobs as it has turns until then; only
    what is of `tenant` if that is given. `lanes` are those of the job's priority and above.
    """
    jobs, work_s = (own.jobs, own.work_s) if tenant in (None, mine.tenant) else (0, 0.0)
    for lane in lanes:
        if lane == mine or tenant not in (None, lane.tenant):
            continue
        turns = own.jobs + (lane.order < mine.order)
        served = lane.jobs if lane.priority > mine.priority else min(lane.jobs, turns)
        jobs += served
        work_s += lane.work_us / MICROSECONDS * served / lane.jobs
    return Waiting(jobs=jobs, work_s=work_s)


class Queued(NamedTuple):
    """A queued job's lane, and what is before it there."""

    id: str
    priority: int
    tenant: str
    own: Waiting


def all_ahead(
    lanes: Sequence[Lane], queued: Iterable[Queued], tenant: str | None
) -> dict[str, Waiting]:
    """`ahead` of each job; `lanes` are at least those of its priority and above."""
    found: dict[str, Waiting] = {}
    for job in queued:
        above = [lane for lane in lanes if lane.priority >= job.priority]
        mine = next(
            lane for lane in above if (lane.priority, lane.tenant) == (job.priority, job.tenant)
        )
        found[job.id] = ahead(above, mine, job.own, tenant)
    return found


def check_room(
    scope: Literal["server", "tenant"], waiting: Waiting, job: Job, bound_s: float
) -> None:
    """Raises QueueFull. Where nothing waits there is room for one job, however long it takes."""
    if waiting.jobs and waiting.work_s + job.work_s > bound_s:
        raise QueueFull(scope, waiting.work_s)
