"""Accumulate while busy."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from pipelines.batching.batcher import Batcher
from pipelines.contracts import ServiceTerms


class Squares:
    """Squares numbers, records its batches, fails for negative ones, and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batcher: Batcher[int, int] = Batcher(
            self.run, key=lambda item: item % 2, max_batch_size=3, name="squares"
        )

    def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append(list(items))
        if 99 in items:
            raise RuntimeError("broken batch")
        return [ValueError(f"{item} is negative") if item < 0 else item**2 for item in items]


async def hold_with(squares: Squares, item: int) -> asyncio.Task[int]:
    """Start a batch of one and keep it running."""
    squares.gate.clear()
    task = asyncio.create_task(result_of(squares, item))
    assert await asyncio.to_thread(squares.entered.wait, 10)
    return task


async def result_of(squares: Squares, item: int) -> int:
    return (await squares.batcher.submit(item)).result


async def test_an_idle_batcher_starts_at_once_and_a_busy_one_accumulates_by_key() -> None:
    squares = Squares()
    first = await hold_with(squares, 2)
    others = [asyncio.create_task(result_of(squares, item)) for item in (4, 1, 6, 3, 8, 10)]
    await asyncio.sleep(0)
    squares.gate.set()
    assert await asyncio.gather(first, *others) == [4, 16, 1, 36, 9, 64, 100]
    assert squares.batches == [[2], [4, 6, 8], [1, 3], [10]]


async def test_an_error_in_one_place_fails_that_item_alone() -> None:
    squares = Squares()
    first = await hold_with(squares, 0)
    good, bad = (asyncio.create_task(result_of(squares, item)) for item in (2, -2))
    await asyncio.sleep(0)
    squares.gate.set()
    assert await first == 0
    assert await good == 4
    with pytest.raises(ValueError, match="-2 is negative"):
        await bad


async def test_a_batch_that_raises_fails_its_items_and_the_next_one_works() -> None:
    squares = Squares()
    with pytest.raises(RuntimeError, match="broken batch"):
        await squares.batcher.submit(99)
    assert await result_of(squares, 5) == 25


async def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(
        lambda items: [], key=lambda item: 0, max_batch_size=2, name="empty"
    )
    with pytest.raises(RuntimeError, match="1 items gave 0 results"):
        await batcher.submit(1)


async def test_a_cancelled_item_that_waits_is_never_run() -> None:
    squares = Squares()
    first = await hold_with(squares, 2)
    doomed = asyncio.create_task(result_of(squares, 4))
    kept = asyncio.create_task(result_of(squares, 6))
    await asyncio.sleep(0)
    doomed.cancel()
    await asyncio.sleep(0)
    squares.gate.set()
    assert await kept == 36
    assert await first == 4
    assert squares.batches == [[2], [6]]
    with pytest.raises(asyncio.CancelledError):
        await doomed


async def test_results_say_how_long_they_waited_and_ran() -> None:
    squares = Squares()
    batched = await squares.batcher.submit(3)
    assert batched.batch_size == 1
    assert batched.waited >= 0
    assert batched.ran >= 0
    squares.batcher.close()


class Order:
    """Runs batches of three, records them, and is held until all of a test's items wait."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.batcher: Batcher[str, str] = Batcher(
            self.run, key=lambda _: None, max_batch_size=3, name="order"
        )

    def run(self, items: Sequence[str]) -> list[str | Exception]:
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append(list(items))
        return list(items)

    async def run_all(self, items: Sequence[tuple[str, ServiceTerms]]) -> list[list[str]]:
        """The batches of `items`, which all wait behind a first one."""
        tasks = [asyncio.create_task(self.batcher.submit("first"))]
        assert await asyncio.to_thread(self.entered.wait, 10)
        tasks += [asyncio.create_task(self.batcher.submit(*item)) for item in items]
        await asyncio.sleep(0)
        self.gate.set()
        await asyncio.gather(*tasks)
        return self.batches[1:]


async def test_tenants_take_turns_so_that_a_flood_delays_nobody_elses_first() -> None:
    names = [*(f"a{number}" for number in range(1, 8)), "b0", "b1", "c0"]
    batches = await Order().run_all([(name, ServiceTerms(tenant=name[0])) for name in names])
    assert batches == [["a1", "b0", "c0"], ["a2", "b1", "a3"], ["a4", "a5", "a6"], ["a7"]]


async def test_priority_then_deadline_decide_and_what_is_late_goes_last() -> None:
    now = time.time()
    items = [
        ("late", ServiceTerms(deadline=now - 1)),
        ("any time", ServiceTerms()),
        ("later", ServiceTerms(deadline=now + 200)),
        ("soon", ServiceTerms(deadline=now + 100)),
        ("important", ServiceTerms(deadline=now + 300, priority=1)),
    ]
    assert await Order().run_all(items) == [["important", "soon", "later"], ["late", "any time"]]


async def test_what_is_late_or_unimportant_does_not_wait_for_ever() -> None:
    hurried = ServiceTerms(deadline=time.time() + 100)
    late = ("late", ServiceTerms(deadline=time.time() - 1))
    batches = await Order().run_all([late, *((f"{number}", hurried) for number in range(30))])
    assert "late" in batches[2]  # with the one before it, the fourth
