"""Batching for the stages around the denoiser: accumulate while busy.

While one batch runs, arrivals wait; when it ends, all that wait with the same key as the most
urgent run together. An idle stage so starts at once, and a busy one batches as much as its load
offers, without a waiting time to tune. (`serve.batch` cuts batches by time while the last one still
runs.)
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from pipelines.batching.demand import Demand, Meter
from pipelines.contracts import ServiceTerms

Item = TypeVar("Item")
Result = TypeVar("Result")

_OLDEST_FIRST_EVERY = 4
"""Batches after which the oldest item goes first, whatever its terms: so nothing starves."""


class Batched(NamedTuple, Generic[Result]):
    """A result with the seconds it waited and ran, and how many shared the batch."""

    result: Result
    waited: float
    ran: float
    batch_size: int


@dataclass(slots=True, kw_only=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    key: Hashable
    terms: ServiceTerms
    future: asyncio.Future[Batched[Result]]
    arrived: float


class Batcher(Generic[Item, Result]):
    """Feeds `run` with batches of items of equal `key`, one at a time, in a thread of its own.

    Items go first by priority and deadline, those already late after the others; where several
    tenants wait, they take turns; and one batch in a few begins with the oldest item. `run` answers
    one result per item, in order; an exception in its place fails that item alone, and one that it
    raises fails the whole batch. Belongs to one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        key: Callable[[Item], Hashable],
        max_batch_size: int,
        name: str,
    ) -> None:
        if max_batch_size < 1:
            raise ValueError(f"{name}: max_batch_size must be at least 1")
        self._run = run
        self._key = key
        self.max_batch_size = max_batch_size
        self._waiting: list[_Waiting[Item, Result]] = []
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._drainer: asyncio.Task[None] | None = None
        self._batches = 0
        self._meter = Meter()

    def __len__(self) -> int:
        """Items that wait; those in the running batch are not counted."""
        return len(self._waiting)

    async def submit(self, item: Item, terms: ServiceTerms = ServiceTerms()) -> Batched[Result]:
        """The item's result. A caller cancelled before its batch starts leaves the queue."""
        loop = asyncio.get_running_loop()
        entry: _Waiting[Item, Result] = _Waiting(
            item=item,
            key=self._key(item),
            terms=terms,
            future=loop.create_future(),
            arrived=loop.time(),
        )
        self._waiting.append(entry)
        self._meter.came()
        if self._drainer is None or self._drainer.done():
            self._drainer = loop.create_task(self._drain())
        try:
            return await entry.future
        finally:
            self._meter.left()

    @property
    def demand(self) -> Demand:
        """What it has to do and has done."""
        return self._meter.demand

    def close(self) -> None:
        """End the worker thread once its batch is done; what still waits is cancelled."""
        for entry in self._waiting:
            entry.future.cancel()
        self._waiting.clear()
        self._worker.shutdown(wait=False)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            started = loop.time()
            try:
                results = await loop.run_in_executor(
                    self._worker, self._timed, [entry.item for entry in batch]
                )
            except Exception as error:  # noqa: BLE001  whatever a stage raises is its callers' news
                _reject(batch, error)
            else:
                self._meter.ran(len(batch), results[1])
                _resolve(batch, *results, started=started)

    def _timed(self, items: Sequence[Item]) -> tuple[Sequence[Result | Exception], float]:
        began = time.perf_counter()
        results = self._run(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        return results, time.perf_counter() - began

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The item whose turn it is and those behind it with its key, up to the batch size."""
        self._waiting = [entry for entry in self._waiting if not entry.future.done()]
        if not self._waiting:
            return []
        in_turn = self._in_turn()
        self._batches += 1
        if self._batches % _OLDEST_FIRST_EVERY == 0:
            in_turn.sort(key=lambda entry: entry is not self._waiting[0])
        key = in_turn[0].key
        batch = [entry for entry in in_turn if entry.key == key][: self.max_batch_size]
        taken = {id(entry) for entry in batch}
        self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
        return batch

    def _in_turn(self) -> list[_Waiting[Item, Result]]:
        """Each tenant's most urgent item, then the second most urgent of each, and so on."""
        now = time.time()
        by_urgency = sorted(self._waiting, key=lambda entry: _urgency(entry.terms, now))
        seen: Counter[str] = Counter()
        turns: list[int] = []
        for entry in by_urgency:
            turns.append(seen[entry.terms.tenant])
            seen[entry.terms.tenant] += 1
        order = sorted(range(len(turns)), key=turns.__getitem__)
        return [by_urgency[index] for index in order]


def _urgency(terms: ServiceTerms, now: float) -> tuple[int, float]:
    """Smaller is more urgent. A deadline that is over cannot be kept by hurrying."""
    deadline = terms.deadline if terms.deadline is not None else math.inf
    return -terms.priority, deadline if deadline > now else math.inf


def _reject(batch: Sequence[_Waiting[Item, Result]], error: Exception) -> None:
    for entry in batch:
        if not entry.future.done():
            entry.future.set_exception(error)


def _resolve(
    batch: Sequence[_Waiting[Item, Result]],
    results: Sequence[Result | Exception],
    ran: float,
    *,
    started: float,
) -> None:
    for entry, result in zip(batch, results, strict=True):
        if entry.future.done():
            continue
        if isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(Batched(result, started - entry.arrived, ran, len(batch)))
