"""Entries: the jobs that an engine has, each of them a work of its scheduler, and how they leave.

A job leaves once: finished, failed, cancelled or handed over. Whatever is done with one job alone
is done under `alone`, so that what it raises is its caller's news and nobody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from pipelines.engine.entry import Entry, HandedOver
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.stepper import Stepper
from pipelines.errors import SluiceError, StageLost


class Entries:
    """Of one engine. `changed` guards the scheduler too, and may be held by who calls.

    `on_failure` hears of the group of each job that failed for a reason that is none of ours.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        changed: threading.Condition,
        *,
        on_failure: Callable[[str], None],
    ) -> None:
        self._scheduler, self._changed = scheduler, changed
        self._on_failure = on_failure
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, work_id: str) -> bool:
        return work_id in self._entries

    def has(self, entry: Entry) -> bool:
        """Whether it is this very entry that runs under its id."""
        return self._entries.get(entry.id) is entry

    def of(self, work_ids: Iterable[str]) -> list[Entry]:
        """Those of them that are here, in this order."""
        return [self._entries[each] for each in work_ids if each in self._entries]

    def of_group(self, group: str) -> list[Entry]:
        """Entries of the images of one request, `group`, that are here now."""
        return [entry for entry in self._entries.values() if entry.job.group == group]

    def add(self, entry: Entry) -> None:
        """Let it run as the work that it has."""
        self._scheduler.add(entry.work)
        self._entries[entry.id] = entry

    def cancel(self, work_id: str) -> Entry | None:
        """Forget a job without a word to its caller; None if it is not here."""
        with self._changed:
            self._scheduler.cancel(work_id)
            return self._entries.pop(work_id, None)

    def leave(self, entry: Entry) -> bool:
        """Forget an entry; whether its caller still waits, and must be told why."""
        with self._changed:
            if not self.has(entry):
                return False
            del self._entries[entry.id]
            self._scheduler.cancel(entry.id)
        return entry.future.set_running_or_notify_cancel()

    def fail(self, entry: Entry, error: Exception) -> None:
        """Tell the caller of this job alone, if it still waits."""
        if self.leave(entry):
            entry.future.set_exception(error)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Tell each caller that waits."""
        for entry in list(self._entries.values()):
            self.fail(entry, error())

    def hand_over(self, stage: Stepper[Any]) -> None:
        """Let go of every job, at a point where none is being stepped: each raises HandedOver, and
        has said before where it stands."""
        for entry in list(self._entries.values()):
            with self.alone(entry):
                entry.hand_over(stage)
                self.fail(entry, HandedOver())

    @contextmanager
    def alone(self, entry: Entry) -> Generator[None]:
        """Whatever one job raises is its caller's news; only a lost stage may end the loop."""
        try:
            yield
        except StageLost:
            raise
        except Exception as error:  # noqa: BLE001  the edge of the thread: the caller is told
            if not isinstance(error, SluiceError):
                self._on_failure(entry.job.group)
            self.fail(entry, error)
