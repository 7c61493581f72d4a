"""CallerWatch: works of a caller that has died leave.

Ray does not end a call when the process that made it dies: its images would be drawn to the end for
nobody. So a caller gives its name with each long call, the name of its actor, and the replica that
has the call looks every second whether Ray still knows it. Only what Ray says is dead is: a caller
that is busy, or a control service that does not answer, changes nothing.

A stream that ends makes Ray wait until its caller has all items, and stops the whole replica for
that: a second for each stream of a dead caller, one after the other. So these end later, without an
item on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import ray
import ray.serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.wire.packed import Refusal
from pipelines.errors import SluiceError

logger = logging.getLogger("ray.serve")

PERIOD_S = 1.0

LINGER_S = 8.0
"""Ray has given up items for a dead caller after less than 4 s. Serve waits for these calls where
the replica goes meanwhile."""

T = TypeVar("T")

_NAMESPACE = "serve"
"""Where Serve's replicas have their names."""


def own_name() -> str:
    """What this process is called as a caller; "" outside of a Serve replica."""
    try:
        return ray.serve.get_replica_context().replica_id.to_full_id_str()
    except RayServeException:
        return ""


def is_dead(name: str) -> bool:
    """Whether no actor of that name runs any more; False where that is not known. May block."""
    try:
        ray.get_actor(name, namespace=_NAMESPACE)
    except ValueError:
        return True
    except (RayError, RuntimeError):  # the control service does not answer
        return False
    return False


@dataclass(slots=True, eq=False)
class _Call:
    """A call of `caller`, and how it leaves."""

    caller: str
    leave: Callable[[], object]
    is_orphaned: bool = False


class CallerWatch:
    """Looks after the callers of what is under way in this replica. For any thread.

    `has_died` is asked from a thread of its own, which runs as long as somebody is watched.
    """

    def __init__(
        self,
        *,
        has_died: Callable[[str], bool] = is_dead,
        period_s: float = PERIOD_S,
        linger_s: float = LINGER_S,
    ) -> None:
        self._has_died = has_died
        self._period_s = period_s
        self._linger_s = linger_s
        self._changed = threading.Condition()
        self._watched: dict[_Call, None] = {}
        self._is_running = False
        self._own = own_name()

    async def streamed(
        self, caller: str, stream: AsyncGenerator[T], leave: Callable[[], object]
    ) -> AsyncGenerator[T | Refusal]:
        """The items of `stream`, for a call to stream to `caller`, and its own error as the last.

        If that dies, `leave` is called from the watch's thread, and should make `stream` end,
        however it does. "" is nobody to watch, and neither is this replica itself.
        """
        with self._watching(caller, leave) as call:
            try:
                async with contextlib.aclosing(stream):
                    async for item in stream:
                        if not call.is_orphaned:
                            yield item
            except SluiceError as error:
                if not call.is_orphaned:
                    yield Refusal(error=error)
            except (Exception, asyncio.CancelledError):  # how it leaves is the stage's own
                if not call.is_orphaned or _is_cancelled():
                    raise
        if call.is_orphaned:
            await asyncio.sleep(self._linger_s)

    @contextmanager
    def _watching(self, caller: str, leave: Callable[[], object]) -> Generator[_Call]:
        call = _Call(caller, leave)
        if caller in ("", self._own):
            yield call
            return
        with self._changed:
            self._watched[call] = None
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="caller-watch", daemon=True).start()
        try:
            yield call
        finally:
            with self._changed:
                self._watched.pop(call, None)
                self._changed.notify()

    def _run(self) -> None:
        while callers := self._wait():
            for caller in callers:
                try:
                    if self._has_died(caller):
                        self._leave(caller)
                except Exception:  # the thread's edge: it has the others to look after
                    logger.exception("%s could not be looked after", caller)

    def _wait(self) -> set[str]:
        """A period later: who is watched. None, and the thread's end, if nobody is any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._watched, timeout=self._period_s)
            callers = {call.caller for call in self._watched}
            self._is_running = bool(callers)
            return callers

    def _leave(self, caller: str) -> None:
        with self._changed:
            gone = [call for call in self._watched if call.caller == caller]
            for call in gone:
                del self._watched[call]
        logger.warning("%s has died: what it asked for is dropped, %d calls", caller, len(gone))
        for call in gone:
            call.is_orphaned = True
            call.leave()


def _is_cancelled() -> bool:
    """Whether the running task was told to end, and not only one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
