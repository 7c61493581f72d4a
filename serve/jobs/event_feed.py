"""EventFeed: a job's events as they come, stored ones in order and previews in between."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack

from deployments.broadcast import AskAll
from deployments.graph.listening.events import ImagePreview
from pipelines.errors import StoreUnavailable
from serve.jobs.job import JobEvent
from serve.jobs.previews import Marker, Previews
from serve.jobs.remote_previews import RemotePreviews
from serve.jobs.store.job_store import JobStore
from serve.jobs.transitions import FINAL_EVENTS

LOOK_S = 15.0
"""For which an event is waited for before the store is asked again."""

LOOK_WHERE_S = 1.0
"""For which a preview is waited for before it is looked again where the job runs."""

logger = logging.getLogger("ray.serve")


class EventFeed:
    """Of all jobs. `previews_here` gives those of a job that runs in this replica; other replicas
    are asked through `ask_all`."""

    def __init__(
        self,
        store: JobStore,
        previews_here: Callable[[str], Previews | None],
        ask_all: AskAll | None,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._previews_here = previews_here
        self._remote = RemotePreviews(ask_all)
        self._now = now

    async def follow(self, job_id: str, *, after: int) -> AsyncGenerator[JobEvent]:
        """Stored events after `after`, up to the final one; they end as well if the job is
        forgotten. While the store is away, nothing comes."""
        while True:
            try:
                events = await self._store.events(job_id, after=after)
                for event in events:
                    yield event
                    assert event.number is not None
                    after = event.number
                if events:
                    if events[-1].type in FINAL_EVENTS:
                        return
                    continue
                job = await self._store.get(job_id)
                if job is None or (job.status.is_final and after >= job.last_event):
                    return
                await self._store.changed(job_id, after=after, timeout_s=LOOK_S)
            except StoreUnavailable as error:
                logger.warning("job %s: its events wait: %s", job_id, error)
                await asyncio.sleep(error.retry_after_s)

    async def follow_with_previews(self, job_id: str, *, after: int) -> AsyncGenerator[JobEvent]:
        """The same, with previews between them as they are made."""
        stored, shown = self.follow(job_id, after=after), self._previews(job_id)
        next_stored = asyncio.create_task(_next(stored))
        next_shown = asyncio.create_task(_next(shown))
        try:
            while True:
                await asyncio.wait((next_stored, next_shown), return_when=asyncio.FIRST_COMPLETED)
                if next_shown.done() and (preview := next_shown.result()) is not None:
                    yield preview
                    next_shown = asyncio.create_task(_next(shown))
                if next_stored.done():
                    event = next_stored.result()
                    if event is None:
                        return
                    if event.type == "job.running":
                        self._remote.begun(job_id)
                    yield event
                    next_stored = asyncio.create_task(_next(stored))
        finally:
            for task in (next_stored, next_shown):
                task.cancel()
            await asyncio.gather(next_stored, next_shown, return_exceptions=True)
            await stored.aclose()
            await shown.aclose()

    async def _previews(self, job_id: str) -> AsyncGenerator[JobEvent]:
        seen: Marker | None = None
        with ExitStack() as elsewhere:
            remote: Previews | None = None
            while True:
                previews = self._previews_here(job_id)
                if previews is not None:
                    elsewhere.close()
                    remote = None
                else:
                    if remote is None:
                        remote = elsewhere.enter_context(self._remote.watched(job_id))
                    previews = remote
                shown = await previews.next(seen, timeout_s=LOOK_WHERE_S)
                seen = shown.marker
                for preview in shown.previews:
                    yield self._event(job_id, preview)

    def _event(self, job_id: str, preview: ImagePreview) -> JobEvent:
        return JobEvent(
            job_id=job_id,
            number=None,
            type="job.preview",
            at=self._now(),
            data={
                "image": preview.image,
                "step": preview.step,
                "total": preview.num_steps,
                "media_type": preview.media_type,
                "b64": base64.b64encode(preview.data).decode("ascii"),
            },
        )


async def _next(events: AsyncGenerator[JobEvent]) -> JobEvent | None:
    return await anext(events, None)
