"""What may happen to a job: all of it, in either store, is decided here."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from pipelines.errors import IdempotencyKeyReused
from serve.jobs import transitions
from serve.jobs.job import Job, JobAction, JobStatus
from serve.jobs.store.job_json import job_from_json, job_to_json
from serve.jobs.store.job_store import Update
from serve.jobs.transitions import FOLLOWERS
from tests.serve.jobs.store.samples import a_job, an_output

TTL_S = 50.0
FINAL = [status for status in JobStatus if status.is_final]


def job_in(status: JobStatus, **fields: Any) -> Job:
    return a_job("job_1", status=status, last_event=2, **fields)


def test_every_status_has_its_followers() -> None:
    assert set(FOLLOWERS) == set(JobStatus)
    assert all(FOLLOWERS[status] == frozenset() for status in FINAL)
    assert not any(JobStatus.QUEUED in followers for followers in FOLLOWERS.values())


def test_a_job_that_is_submitted_is_new() -> None:
    with pytest.raises(ValueError, match="job_1: a new job"):
        transitions.submitted(job_in(JobStatus.QUEUED))
    with pytest.raises(ValueError, match="job_1: a new job"):
        transitions.submitted(a_job("job_1", status=JobStatus.RUNNING))


@pytest.mark.parametrize("status", FINAL)
def test_a_final_update_sets_when_it_ended_and_when_it_is_forgotten(status: JobStatus) -> None:
    job = job_in(JobStatus.RUNNING, webhook="https://a.test/", pending_action=JobAction.KEEP)
    over = transitions.updated(job, Update(at=8.0, changes={"status": status}), ttl_s=TTL_S)
    assert over.job == replace(
        job, status=status, finished_at=8.0, expires_at=58.0, pending_action=None, last_event=3
    )
    assert [(event.number, event.type) for event in over.events] == [(3, f"job.{status}")]
    assert over.delivery is not None
    assert (over.delivery.job_id, over.delivery.next_at) == ("job_1", 8.0)
    assert over.delivery.url == "https://a.test/"


@pytest.mark.parametrize("status", FINAL)
def test_nothing_happens_to_a_job_that_is_over(status: JobStatus) -> None:
    job = job_in(status)
    for action in JobAction:
        asked = transitions.asked(job, action, at=9.0, ttl_s=TTL_S)
        assert asked == transitions.Transition(job=job)
    for after in JobStatus:
        with pytest.raises(ValueError, match="cannot follow"):
            transitions.updated(job, Update(at=9.0, changes={"status": after}), ttl_s=TTL_S)


def test_a_cancel_replaces_a_keep_and_not_the_other_way_round() -> None:
    job = job_in(JobStatus.RUNNING)
    kept = transitions.asked(job, JobAction.KEEP, at=9.0, ttl_s=TTL_S).job
    cancelled = transitions.asked(kept, JobAction.CANCEL, at=9.0, ttl_s=TTL_S).job
    still = transitions.asked(cancelled, JobAction.KEEP, at=9.0, ttl_s=TTL_S).job
    actions = [each.pending_action for each in (kept, cancelled, still)]
    assert actions == [JobAction.KEEP, JobAction.CANCEL, JobAction.CANCEL]


def test_two_final_events_are_one_too_many() -> None:
    twice = Update(
        at=8.0,
        changes={"status": JobStatus.FAILED},
        events=[("job.failed", {}), ("job.failed", {})],
    )
    with pytest.raises(ValueError, match=r"job\.failed is not the last"):
        transitions.updated(job_in(JobStatus.RUNNING), twice, ttl_s=TTL_S)


def test_an_update_that_is_sent_again_brings_no_image_twice() -> None:
    output = an_output(10)
    update = Update(
        at=8.0,
        changes={"outputs": (output,)},
        events=[("job.image", {"output": asdict(output)}), ("job.progress", {})],
    )
    once = transitions.updated(job_in(JobStatus.RUNNING), update, ttl_s=TTL_S)
    again = transitions.updated(once.job, update, ttl_s=TTL_S)
    assert [event.type for event in once.events] == ["job.image", "job.progress"]
    assert [(event.number, event.type) for event in again.events] == [(5, "job.progress")]


def test_a_replay_is_told_from_another_request() -> None:
    earlier, job = a_job("job_1", idempotency_key="k"), a_job("job_2", idempotency_key="k")
    assert transitions.replayed(earlier, job).job == earlier
    with pytest.raises(IdempotencyKeyReused, match="send a new key"):
        transitions.replayed(earlier, replace(job, body_sha256="c" * 64))


def test_a_job_with_nothing_but_what_it_needs_is_the_same_in_json() -> None:
    job = a_job("job_1")
    assert job_from_json(job_to_json(job)) == job


def test_the_message_of_an_end_is_known_by_its_job() -> None:
    """Whatever the time: two jobs that end at once have two, and one job has never another."""
    ends = [
        transitions.asked(
            a_job(job_id, webhook="https://hooks.example.com/"),
            JobAction.CANCEL,
            at=at,
            ttl_s=1.0,
        ).delivery
        for job_id, at in (("job_1", 5.0), ("job_1", 6.0), ("job_2", 5.0))
    ]
    assert [end.id for end in ends if end is not None] == ["msg_1", "msg_1", "msg_2"]
