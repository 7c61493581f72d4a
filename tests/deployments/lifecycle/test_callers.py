"""Who has died is found out, and what it asked for is told to leave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator

import pytest
import ray.exceptions

from deployments.lifecycle import callers
from deployments.lifecycle.callers import CallerWatch, is_dead, own_name
from deployments.wire.packed import Refusal
from pipelines.errors import StageFailed


class Cluster:
    """Says who is dead, and how often it was asked for each."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.asked: list[str] = []
        self.rounds = threading.Semaphore(0)

    def has_died(self, name: str) -> bool:
        self.asked.append(name)
        self.rounds.release()
        return name in self.dead


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def watch(cluster: Cluster) -> CallerWatch:
    return CallerWatch(has_died=cluster.has_died, period_s=0.01, linger_s=0.0)


class Call:
    """A call of `caller` that streams what it is given, and ends with an error once it is told to
    leave."""

    def __init__(self, watch: CallerWatch, caller: str) -> None:
        self.left = asyncio.Event()
        self.items = asyncio.Queue[str]()
        self._loop = asyncio.get_running_loop()
        self._work = self._loop.create_future()
        self.got: list[str | Refusal] = []
        self.task = asyncio.create_task(
            self._consume(watch.streamed(caller, self._run(), self.leave))
        )

    async def _run(self) -> AsyncGenerator[str]:
        try:
            while True:
                waiting = asyncio.ensure_future(self.items.get())
                await asyncio.wait((waiting, self._work), return_when=asyncio.FIRST_COMPLETED)
                if self._work.done():
                    yield "of what was done"
                    raise StageFailed("dropped", stage="Denoiser")
                yield waiting.result()
        finally:
            self.left.set()

    def leave(self) -> None:
        self._loop.call_soon_threadsafe(self._work.set_result, None)

    async def _consume(self, stream: AsyncGenerator[str | Refusal]) -> None:
        async with contextlib.aclosing(stream):
            async for item in stream:
                self.got.append(item)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def rounds(cluster: Cluster, number: int = 5) -> None:
    """The watch has looked so often."""
    for _ in range(number):
        assert await asyncio.to_thread(cluster.rounds.acquire, timeout=30)


async def test_works_of_the_dead_leave_and_those_of_the_living_stay(
    watch: CallerWatch, cluster: Cluster
) -> None:
    dead, other, living = Call(watch, "a"), Call(watch, "a"), Call(watch, "b")
    await rounds(cluster)
    cluster.dead = {"a"}
    # Nothing more is sent, not even that they fail: Ray would wait for nobody to take it.
    await asyncio.wait_for(asyncio.gather(dead.task, other.task), 30)
    assert (dead.got, other.got) == ([], [])
    assert dead.left.is_set()
    assert other.left.is_set()
    living.items.put_nowait("an item")
    await rounds(cluster)
    assert living.got == ["an item"]
    await living.end()
    assert living.left.is_set()


async def test_a_call_of_the_dead_ends_when_nothing_is_on_its_way(cluster: Cluster) -> None:
    watch = CallerWatch(has_died=cluster.has_died, period_s=0.01, linger_s=3600.0)
    call = Call(watch, "a")
    cluster.dead = {"a"}
    await asyncio.wait_for(call.left.wait(), 30)
    await asyncio.sleep(0.05)
    assert not call.task.done()
    await call.end()


@pytest.mark.parametrize("orphaned_by", ["an error", "a cancellation"])
async def test_only_how_its_own_work_ends_is_kept_from_the_dead(
    watch: CallerWatch, orphaned_by: str
) -> None:
    """The call's task may be cancelled as well, as when its replica goes."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def stream() -> AsyncGenerator[str]:
        yield await asyncio.shield(work)

    async def consume() -> list[str | Refusal]:
        return [item async for item in watch.streamed("a", stream(), lambda: None)]

    ended, cancelled = asyncio.create_task(consume()), asyncio.create_task(consume())
    await asyncio.sleep(0)
    for call in list(watch._watched):
        call.is_orphaned = True
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    if orphaned_by == "an error":
        work.set_exception(StageFailed("dropped", stage="Denoiser"))
    else:
        work.cancel()
    assert await asyncio.wait_for(ended, 30) == []


async def test_who_has_finished_is_not_told(watch: CallerWatch, cluster: Cluster) -> None:
    left, living = Call(watch, "a"), Call(watch, "b")
    await rounds(cluster)
    await left.end()
    cluster.dead = {"a"}
    await rounds(cluster)
    assert not left._work.done()
    await living.end()


async def test_errors_go_to_those_who_live(watch: CallerWatch) -> None:
    call = Call(watch, "b")
    call.leave()
    await asyncio.wait_for(call.task, 30)
    done, last = call.got
    assert done == "of what was done"
    assert isinstance(last, Refusal)
    assert isinstance(last.error, StageFailed)


async def test_what_nobody_foresaw_is_raised(watch: CallerWatch) -> None:
    async def stream() -> AsyncGenerator[str]:
        yield "an item"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        assert [item async for item in watch.streamed("b", stream(), lambda: None)]


async def test_a_watch_begins_again_after_a_rest(watch: CallerWatch, cluster: Cluster) -> None:
    for name in ("a", "b"):
        call = Call(watch, name)
        await rounds(cluster, 1)
        await call.end()
        for thread in threading.enumerate():
            if thread.name == "caller-watch":
                await asyncio.to_thread(thread.join, 30)
        assert not watch._is_running


@pytest.mark.parametrize("name", ["", "itself"])
async def test_nobody_and_itself_are_not_watched(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(callers, "own_name", lambda: "itself")
    watch = CallerWatch(has_died=cluster.has_died, period_s=0.01)
    call = Call(watch, name)
    call.leave()
    await asyncio.wait_for(call.task, 30)
    assert isinstance(call.got[-1], Refusal)
    assert not watch._is_running


@pytest.mark.parametrize(
    ("raised", "dead"),
    [
        (ValueError("Failed to look up actor"), True),
        (ray.exceptions.GetTimeoutError("the control service is away"), False),
        (ray.exceptions.RaySystemError("away"), False),
    ],
)
def test_only_who_is_known_to_be_dead_is(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, dead: bool
) -> None:
    def get_actor(name: str, namespace: str) -> None:
        raise raised

    monkeypatch.setattr(callers.ray, "get_actor", get_actor)
    assert is_dead("a") is dead


def test_outside_of_a_replica_nobody_has_a_name() -> None:
    assert own_name() == ""
