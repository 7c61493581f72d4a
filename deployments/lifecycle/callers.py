"""CallerWatch: works of a caller that has died leave.

Ray does not end a call when the process that made it dies: its images would be drawn to the end for
nobody. So a caller gives its name with each long call, the name of its actor, and the replica that
has the call looks every second whether Ray still knows it. Only what Ray says is dead is: a caller
that is busy, or a control service that does not answer, changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import ray
import ray.serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

logger = logging.getLogger("ray.serve")

PERIOD_S = 1.0

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


class CallerWatch:
    """Looks after the callers of what is under way in this replica. For any thread.

    `has_died` is asked from a thread of its own, which runs as long as somebody is watched.
    """

    def __init__(
        self, *, has_died: Callable[[str], bool] = is_dead, period_s: float = PERIOD_S
    ) -> None:
        self._has_died = has_died
        self._period_s = period_s
        self._changed = threading.Condition()
        self._watched: dict[object, tuple[str, Callable[[], object]]] = {}
        self._is_running = False
        self._own = own_name()

    @contextmanager
    def watched(self, caller: str, leave: Callable[[], object]) -> Generator[None]:
        """Call `leave`, from the watch's thread, if `caller` dies during the body.

        "" is nobody to watch, and neither is this replica itself.
        """
        if caller in ("", self._own):
            yield
            return
        key = object()
        with self._changed:
            self._watched[key] = caller, leave
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="caller-watch", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._watched.pop(key, None)
                self._changed.notify()

    def _run(self) -> None:
        while callers := self._wait():
            for caller in callers:
                if self._has_died(caller):
                    self._leave(caller)

    def _wait(self) -> set[str]:
        """A period later: who is watched. None, and the thread's end, if nobody is any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._watched, timeout=self._period_s)
            callers = {caller for caller, _ in self._watched.values()}
            self._is_running = bool(callers)
            return callers

    def _leave(self, caller: str) -> None:
        with self._changed:
            gone = {key: leave for key, (who, leave) in self._watched.items() if who == caller}
            for key in gone:
                del self._watched[key]
        logger.warning("%s has died: what it asked for is dropped, %d calls", caller, len(gone))
        for leave in gone.values():
            leave()
