"""DrainWatch: notices that Serve takes this replica away, while its calls still run.

Serve stops a replica by asking it to finish what it has: it waits for the ongoing calls first, up
to `graceful_shutdown_timeout_s`, and only then runs `__del__`. No hook, no callback and no field of
the replica's context says that this has begun. A stage whose calls last long, and could go on
elsewhere, must know at once: so this looks, a few times a second, at the flag that the replica's
own actor object raises. That object is private to Ray; reading one attribute was preferred to
replacing a method of it, and to asking the controller, which is down when it is needed most. It is
asked only whether the whole application goes, and need not answer.

Where the attribute is not found, a warning says so, and draining works as Serve alone does it:
calls are finished, or cut off at the time limit and then resumed from their last checkpoint.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import ray
import ray.serve
from ray._private.worker import global_worker
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

logger = logging.getLogger("ray.serve")

PERIOD_S = 0.2
_ANSWER_S = 5.0
"""A busy controller may take over a second; from one that is down, a spot notice leaves 30 s."""

Flag = Callable[[], bool]


class DrainWatch:
    """Calls `on_draining` once, from a thread of its own, when this replica is to go away.

    `flag` says whether it is; left out, it is this process's replica that is asked, and outside of
    a replica, as in Serve's local testing mode, there is nothing to watch.
    """

    def __init__(self, on_draining: Callable[[], None], *, flag: Flag | None = None) -> None:
        self._on_draining = on_draining
        self._flag = flag or replica_flag()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch. Call once."""
        if self._flag is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns at once."""
        self._stopped.set()

    def _run(self) -> None:
        assert self._flag is not None
        while not self._stopped.wait(PERIOD_S):
            if self._flag():
                logger.info("this replica goes away")
                self._on_draining()
                return


def is_deleted(app: str) -> bool:
    """Whether Serve deletes the whole application, so that none of its replicas stays; blocks.

    False where the controller does not say so soon.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    asking = threading.Thread(
        target=lambda: answers.put(_asked_whether_deleted(app)), name="ask-serve", daemon=True
    )
    asking.start()
    try:
        return answers.get(timeout=_ANSWER_S)
    except queue.Empty:
        return False


def _asked_whether_deleted(app: str) -> bool:
    try:
        application = ray.serve.status().applications.get(app)
    except (RayError, RayServeException):
        return False
    return application is None or application.status == ApplicationStatus.DELETING


def replica_flag() -> Flag | None:
    """Whether this process's Serve replica is shutting down, to be asked again and again.

    None outside of a replica, and, with a warning, where this version of Ray does not tell.
    """
    try:
        ray.serve.get_replica_context()
    except RayServeException:
        return None
    try:
        (actor,) = global_worker.actors.values()
        replica = actor._replica_impl
        _ = replica._shutting_down
    except (AttributeError, ValueError):
        logger.warning(
            "Ray %s does not tell when a replica drains: works are finished here, or resumed"
            " elsewhere from their last checkpoint, not handed over at once",
            ray.__version__,
            exc_info=True,
        )
        return None
    return lambda: replica._shutting_down
