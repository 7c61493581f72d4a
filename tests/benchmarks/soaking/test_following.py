"""Readers of events that drop their connection, against a server that counts and can err."""

from __future__ import annotations

import random

import httpx
import pytest

from benchmarks.soaking import following
from benchmarks.soaking.following import follow
from benchmarks.soaking.insistence import submit
from benchmarks.soaking.ledger import Submission

NUM_EVENTS = 20


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_S", 0.0)
    monkeypatch.setattr("benchmarks.soaking.insistence.PAUSE_S", 0.0)


class Events:
    """A job's events over HTTP, cut off in the middle of one every other time; resumed `late` by
    so many."""

    def __init__(self, late: int = 0) -> None:
        self._late = late
        self.asked_after: list[int] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        after = int(request.headers.get("last-event-id", 0))
        self.asked_after.append(after)
        if len(self.asked_after) == 2:
            return httpx.Response(503, text="nobody")
        after += self._late if after else 0
        lines = [self._event(number) for number in range(after + 1, NUM_EVENTS + 1)]
        text = ": keep-alive\n" + "".join(lines)
        if len(self.asked_after) % 2 and len(lines) > 1:
            text = text[: -len(lines[-1]) // 2]
        return httpx.Response(200, text=text)

    @staticmethod
    def _event(number: int) -> str:
        kind = "succeeded" if number == NUM_EVENTS else "progress"
        return f'id: {number}\nevent: job.{kind}\ndata: {{"at": 1}}\n\n'


async def followed(events: Events) -> Submission:
    submission = Submission(dialect="jobs", body={}, job_id="job_1")
    transport = httpx.MockTransport(events)
    async with httpx.AsyncClient(base_url="http://server", transport=transport) as http:
        await follow(http, submission, random.Random(0))
    return submission


async def test_a_reader_that_resumes_has_every_event_once():
    events = Events()
    submission = await followed(events)
    assert submission.followed == list(range(1, NUM_EVENTS + 1))
    assert submission.resumed == len(events.asked_after) - 1 > 2
    assert events.asked_after == sorted(events.asked_after)


async def test_events_that_a_server_leaves_out_are_seen():
    submission = await followed(Events(late=1))
    assert submission.followed is not None
    assert submission.followed != list(range(1, NUM_EVENTS + 1))


async def test_events_that_a_server_repeats_are_seen():
    submission = await followed(Events(late=-1))
    assert submission.followed is not None
    assert len(set(submission.followed)) < len(submission.followed)


async def test_a_stream_that_is_not_there_is_no_endless_one():
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {}})

    submission = Submission(dialect="jobs", body={}, job_id="job_1")
    transport = httpx.MockTransport(refuse)
    async with httpx.AsyncClient(base_url="http://server", transport=transport) as http:
        await follow(http, submission, random.Random(0))
    assert submission.followed == [-404]


class Replaying(random.Random):
    def random(self) -> float:
        return 0.0


@pytest.mark.parametrize(("second_id", "doubled"), [("job_1", False), ("job_2", True)])
async def test_a_replay_that_is_another_job_is_seen(second_id: str, doubled: bool):
    keys: list[str] = []
    answers = iter(
        [
            httpx.Response(503, text="nobody"),
            httpx.Response(202, json={"id": "job_1"}),
            httpx.Response(200, json={"id": second_id}),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return next(answers)

    submission = Submission(dialect="jobs", body={})
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(base_url="http://server", transport=transport) as http:
        await submit(http, submission, Replaying(), "/v1/jobs", {})
    assert (submission.job_id, submission.replays) == ("job_1", 1)
    assert submission.doubled is doubled
    assert len(keys) == 3
    assert len(set(keys)) == 1
