"""RemotePreviews: previews of jobs that run in other ingress replicas, asked for while watched.

Each job has one question under way, whoever and however many watch it here; its runner answers as
soon as it has something new. Where nobody has, the next question comes later and later.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress

from deployments.broadcast import AskAll
from serve.jobs.previews import Marker, Previews, Shown

FIRST_PAUSE_S = 0.5
"""Between two questions; after each that brought nothing new, twice as long as before."""

LONGEST_PAUSE_S = 2.0
"""Where the job runs: shorter than `previews.LINGER_S`, for which they are made unasked."""

LONGEST_SEARCH_PAUSE_S = 15.0
"""Where no replica runs it: it waits, and `begun` says when that is over."""


class RemotePreviews:
    """Of all jobs that are watched here. For one event loop; without `ask_all` there is no other
    replica."""

    def __init__(self, ask_all: AskAll | None) -> None:
        self._ask_all = ask_all
        self._mirrors: dict[str, _Mirror] = {}

    @contextmanager
    def watched(self, job_id: str) -> Generator[Previews]:
        """As long as the body, what others show of the job is shown here too."""
        mirror = self._mirrors.get(job_id)
        if mirror is None:
            mirror = self._mirrors[job_id] = _Mirror(job_id, self._ask_all)
        mirror.watchers += 1
        try:
            yield mirror.previews
        finally:
            mirror.watchers -= 1
            if mirror.watchers == 0:
                del self._mirrors[job_id]
                mirror.close()

    def begun(self, job_id: str) -> None:
        """A runner has begun the job: ask at once, and have its watchers look where it runs."""
        if (mirror := self._mirrors.get(job_id)) is not None:
            mirror.begun()


class _Mirror:
    """One job's: `previews` are those of its runner, wherever that is."""

    def __init__(self, job_id: str, ask_all: AskAll | None) -> None:
        self.watchers = 0
        self.previews = Previews(secrets.token_hex(8), lambda _: None)
        self._job_id = job_id
        self._begun = asyncio.Event()
        self._asking = None if ask_all is None else asyncio.create_task(self._ask(ask_all))

    def begun(self) -> None:
        self._begun.set()
        self.previews.nudge()

    def close(self) -> None:
        self.previews.close()
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, ask_all: AskAll) -> None:
        seen: Marker | None = None
        pause_s = 0.0
        while True:
            answers = await ask_all("job_previews", self._job_id, seen)
            shown = next((each for each in answers if isinstance(each, Shown)), None)
            if shown is not None:
                seen = shown.marker
                for preview in shown.previews:
                    self.previews.put(preview)
            pause_s = pause_after(pause_s, shown)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._begun.wait()
            if self._begun.is_set():
                self._begun.clear()
                pause_s = 0.0


def pause_after(before_s: float, shown: Shown | None) -> float:
    """Seconds from an answer to the next question, which was asked after `before_s`; None was
    answered if no replica runs the job."""
    if shown is not None and shown.previews:
        return FIRST_PAUSE_S
    longest_s = LONGEST_SEARCH_PAUSE_S if shown is None else LONGEST_PAUSE_S
    return min(max(FIRST_PAUSE_S, 2 * before_s), longest_s)
