"""Profiling: the next ticks of an engine, as torch's profiler sees them.

Asked for from any thread and recorded in the engine's own, which is the one that torch then watches
(of a GPU it sees all). Whatever the profiler raises is news for who asked, and the works go on. An
engine that nobody profiles marks nothing, and torch's profiler is not even imported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.engine.entry import shutting_down
from pipelines.engine.observe.recording import Recording
from pipelines.engine.observe.stats import Counters
from pipelines.engine.scheduling.work import Tick
from pipelines.errors import InvalidRequest, Overloaded, RequestTimeout, StageFailed

if TYPE_CHECKING:
    from torch.profiler import profile

logger = logging.getLogger(__name__)

MAX_TICKS = 50
MAX_TIMEOUT_S = 600.0

_NOTHING = nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """At most `ticks` ticks, and not after `timeout_s`: what there is by then is given.

    `with_shapes` adds the shapes of what operators were given, `with_stack` the lines of Python
    that called them, with the paths of their files; both make ticks slower and traces larger.
    """

    ticks: int = 10
    timeout_s: float = 60.0
    with_shapes: bool = False
    with_stack: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.ticks <= MAX_TICKS:
            raise InvalidRequest(f"ticks: must be 1 to {MAX_TICKS}", param="ticks")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise InvalidRequest(
                f"timeout_s: must be above 0 and at most {MAX_TIMEOUT_S:g}", param="timeout_s"
            )


@dataclass(slots=True)
class _Asked:
    request: ProfileRequest
    deadline: float
    future: Future[Recording] = field(default_factory=Future[Recording])
    profile: profile | None = None
    """Of torch, once it records."""
    ticks: int = 0


class Profiling:
    """Of one engine. `ask` is for any thread, and notifies `changed`; the rest is for its loop."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._asked: _Asked | None = None
        self._is_closed = False
        self._unasked = _Unasked(self)

    def ask(self, request: ProfileRequest) -> Future[Recording]:
        """Have the next ticks recorded. The future raises RequestTimeout when none came in time.

        Raises Overloaded while another profile is taken, StageFailed when the engine has ended.
        """
        with self._changed:
            if self._is_closed:
                raise shutting_down()
            now = time.monotonic()
            if self._asked is not None and not self._asked.future.cancelled():
                raise Overloaded(
                    "a profile of this replica is being taken; it has one at a time",
                    retry_after_s=max(1.0, self._asked.deadline - now),
                )
            self._asked = _Asked(request, now + request.timeout_s)
            self._changed.notify()
            return self._asked.future

    @property
    def is_on(self) -> bool:
        """Whether ticks are recorded, and so take longer than others of their like."""
        return self._asked is not None and self._asked.profile is not None

    def left_s(self) -> float | None:
        """Seconds for which a loop without ticks may wait before it must call `end`; None is for
        as long as it likes."""
        return None if self._asked is None else max(0.0, self._asked.deadline - time.monotonic())

    def end(self) -> None:
        """Answer what was asked for with what there is."""
        if self._asked is not None:
            self._end(self._asked)

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Around a part of the loop's turn, to be seen by its name."""
        return _mark(name) if self.is_on else _NOTHING

    def tick(self, tick: Tick, counters: Counters) -> AbstractContextManager[None]:
        """Around a turn of the loop after its plan: where recordings begin and end."""
        return self._unasked if self._asked is None else self._recorded(tick, counters)

    @contextmanager
    def _recorded(self, tick: Tick, counters: Counters) -> Generator[None]:
        self.begin_if_asked()
        number = counters.ticks + 1
        with self.phase(f"tick {number}: {len(tick.work_ids)} images, {tick.load.tokens} tokens"):
            yield
        asked = self._asked
        if asked is not None and asked.profile is not None:
            asked.ticks += counters.ticks + 1 - number
            if asked.ticks >= asked.request.ticks or time.monotonic() >= asked.deadline:
                self._end(asked)
        self.begin_if_asked()  # as after a turn that was not recorded

    def close(self) -> None:
        """The loop has ended: nothing can be recorded any more."""
        with self._changed:
            self._is_closed = True
        self.end()

    def begin_if_asked(self) -> None:
        """Begin what was asked for, if anything was, and is not begun."""
        asked = self._asked
        if asked is None or asked.profile is not None:
            return
        if not asked.future.set_running_or_notify_cancel():  # whoever asked has left
            self._forget(asked)
            return
        try:
            asked.profile = _start(asked.request)
        except Exception as error:  # noqa: BLE001  the works go on without it
            self._fail(asked, error)

    def _end(self, asked: _Asked) -> None:
        """Stop recording, if that had begun, and answer."""
        if asked.profile is not None:
            try:
                asked.profile.stop()
            except Exception as error:  # noqa: BLE001  the works go on
                self._fail(asked, error)
                return
        self._forget(asked)
        if asked.profile is not None and asked.ticks:
            asked.future.set_result(Recording(asked.profile, asked.ticks))
        elif asked.profile is not None or asked.future.set_running_or_notify_cancel():
            asked.future.set_exception(self._why_empty(asked.request))

    def _why_empty(self, request: ProfileRequest) -> Exception:
        if self._is_closed:
            return shutting_down()
        return RequestTimeout(
            f"no tick came within {request.timeout_s:g} s: profile while images are drawn"
        )

    def _fail(self, asked: _Asked, error: Exception) -> None:
        """Answer with what torch's profiler raised."""
        logger.error("a profile failed", exc_info=error)
        self._forget(asked)
        asked.future.set_exception(
            StageFailed(f"torch's profiler failed: {error}", stage="Denoiser")
        )

    def _forget(self, asked: _Asked) -> None:
        with self._changed:
            if self._asked is asked:  # and not one that was asked for after it was cancelled
                self._asked = None


@contextmanager
def _mark(name: str) -> Generator[None]:
    """Torch's `record_function`, none of whose failures reaches the works."""
    from torch.profiler import record_function

    mark, is_set = record_function(name), False
    with _harmless():
        mark.__enter__()
        is_set = True
    try:
        yield
    finally:
        if is_set:
            with _harmless():
                mark.__exit__(None, None, None)


@contextmanager
def _harmless() -> Generator[None]:
    try:
        yield
    except Exception:  # whatever torch raises: the works go on without the mark
        logger.exception("a mark is missing in a profile")


class _Unasked(AbstractContextManager[None]):
    """Around a turn that nobody asked for; one asked for meanwhile has its plan on record too."""

    def __init__(self, profiling: Profiling) -> None:
        self._profiling = profiling

    def __exit__(self, *_: object) -> None:
        self._profiling.begin_if_asked()


def _start(request: ProfileRequest) -> profile:
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_initialized():  # then the stage is on a GPU
        activities.append(ProfilerActivity.CUDA)
    started = profile(
        activities=activities, record_shapes=request.with_shapes, with_stack=request.with_stack
    )
    started.start()
    return started
