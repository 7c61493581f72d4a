from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deployments.graph.listening.events import ImagePreview
from serve.jobs.previews import Marker, Shown
from serve.jobs.remote_previews import RemotePreviews, pause_after

JOB = "job_1"


class Replicas:
    """Two others, of which the second runs the job; each question waits for its answer."""

    def __init__(self) -> None:
        self.seen: list[Marker | None] = []
        self._answers: asyncio.Queue[Shown | None] = asyncio.Queue()

    async def ask_all(self, method: str, job_id: str, seen: Marker | None) -> list[Any]:
        assert (method, job_id) == ("job_previews", JOB)
        self.seen.append(seen)
        return [ConnectionError("a replica that has died"), None, await self._answers.get()]

    def answer(self, *steps: int) -> None:
        previews = tuple(map(_preview, steps))
        marker = Marker(token="hold", number=max(steps, default=0))
        self._answers.put_nowait(Shown(marker=marker, previews=previews))

    def answer_none(self) -> None:
        self._answers.put_nowait(None)


def _preview(step: int) -> ImagePreview:
    return ImagePreview(
        image=0,
        step=step,
        num_steps=4,
        data=b"",
        media_type="image/webp",
        width=64,
        height=64,
    )


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.jobs.remote_previews.pause_after", lambda *_: 0.0)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never holds")


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_all_watchers_of_a_job_share_one_question(without_pauses: None):
    replicas = Replicas()
    remote = RemotePreviews(replicas.ask_all)

    async def watch() -> list[int]:
        with remote.watched(JOB) as previews:
            shown = await previews.next(None, timeout_s=3600.0)
            return [each.step for each in shown.previews]

    watchers = [asyncio.create_task(watch()) for _ in range(20)]
    await turns()
    assert replicas.seen == [None]
    replicas.answer(3)
    assert await asyncio.gather(*watchers) == [[3]] * 20
    assert len(replicas.seen) <= 2  # the next may have been asked before they left


async def test_the_next_question_says_what_was_seen(without_pauses: None):
    replicas = Replicas()
    with RemotePreviews(replicas.ask_all).watched(JOB) as previews:
        replicas.answer(1)
        first = await previews.next(None, timeout_s=3600.0)
        replicas.answer(2)
        second = await previews.next(first.marker, timeout_s=3600.0)
    assert [each.step for each in second.previews] == [2]
    assert replicas.seen[:2] == [None, Marker(token="hold", number=1)]


async def test_without_watchers_nobody_is_asked(without_pauses: None):
    replicas = Replicas()
    remote = RemotePreviews(replicas.ask_all)
    with remote.watched(JOB), remote.watched(JOB):
        await until(lambda: len(replicas.seen) == 1)
    for _ in range(5):
        replicas.answer_none()
    await turns()
    assert len(replicas.seen) == 1
    with remote.watched(JOB):
        await until(lambda: len(replicas.seen) == 2)


async def test_a_job_that_begins_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.jobs.remote_previews.pause_after", lambda *_: 3600.0)
    replicas = Replicas()
    remote = RemotePreviews(replicas.ask_all)
    with remote.watched(JOB) as previews:
        waiting = asyncio.create_task(previews.next(None, timeout_s=3600.0))
        replicas.answer_none()
        await turns()
        assert len(replicas.seen) == 1
        remote.begun(JOB)
        assert (await waiting).previews == ()  # who waits looks where it runs
        await until(lambda: len(replicas.seen) == 2)


async def test_where_this_is_the_only_replica_nobody_is_asked():
    remote = RemotePreviews(None)
    with remote.watched(JOB) as previews:
        assert (await previews.next(None, timeout_s=0.0)).previews == ()
    remote.begun(JOB)


def test_questions_become_rarer_while_nothing_is_new():
    nothing = Shown(marker=Marker(token="hold", number=0), previews=())
    something = Shown(marker=Marker(token="hold", number=1), previews=(_preview(1),))
    assert _pauses([None] * 7) == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert _pauses([nothing] * 4) == [0.5, 1.0, 2.0, 2.0]
    assert _pauses([nothing, nothing, something, something, nothing]) == [0.5, 1.0, 0.5, 0.5, 1.0]


def _pauses(answers: list[Shown | None]) -> list[float]:
    pauses, pause_s = [], 0.0
    for answer in answers:
        pause_s = pause_after(pause_s, answer)
        pauses.append(pause_s)
    return pauses
