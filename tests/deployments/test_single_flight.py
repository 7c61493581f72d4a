from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context

import pytest

from deployments.single_flight import SingleFlight

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


class Work:
    """What is to run once: counts its starts, and ends when `go` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.error = error
        self.starts = 0
        self.cancelled = 0

    async def __call__(self) -> int:
        self.starts += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.starts


async def let_run() -> None:
    """Let every task get as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_equal_calls_share_one_task() -> None:
    flights, work = SingleFlight[str, int](), Work()
    waiting = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await let_run()
    assert flights.is_running("a")
    assert not flights.is_running("b")
    work.go.set()
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert not flights.is_running("a")


async def test_other_keys_and_later_calls_run_anew() -> None:
    flights, work = SingleFlight[str, int](), Work()
    work.go.set()
    assert await asyncio.gather(flights.run("a", work), flights.run("b", work)) == [1, 2]
    assert await flights.run("a", work) == 3


async def test_an_error_goes_to_all_and_is_not_kept() -> None:
    flights, work = SingleFlight[str, int](), Work(error=ValueError("broken"))
    waiting = [asyncio.create_task(flights.run("a", work)) for _ in range(2)]
    await let_run()
    work.go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers == [work.error, work.error]
    work.error = None
    assert await flights.run("a", work) == 2


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_who_leaves_disturbs_no_other(leaver: int) -> None:
    flights, work = SingleFlight[str, int](), Work()
    waiting = [asyncio.create_task(flights.run("a", work)) for _ in range(2)]
    await let_run()
    waiting[leaver].cancel()
    await let_run()
    assert waiting[leaver].cancelled()
    work.go.set()
    assert await waiting[1 - leaver] == 1
    assert work.cancelled == 0


async def test_the_last_who_leaves_ends_the_task() -> None:
    flights, work = SingleFlight[str, int](), Work()
    waiting = [asyncio.create_task(flights.run("a", work)) for _ in range(2)]
    await let_run()
    for task in waiting:
        task.cancel()
    await let_run()
    assert work.cancelled == 1
    # Whoever comes while the old task is still ending starts a new one.
    again = asyncio.create_task(flights.run("a", work))
    await let_run()
    work.go.set()
    assert await again == 2


async def test_the_task_belongs_to_no_caller() -> None:
    async def who() -> str:
        return WHO.get()

    flights = SingleFlight[str, str]()
    WHO.set("caller")
    assert await flights.run("a", who) == "nobody"
    assert await flights.run("a", who, context=copy_context()) == "caller"
