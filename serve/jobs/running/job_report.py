"""JobReport: what happens to a job that is drawn here, heard from the graph and written down.

Written are steps now and then, checkpoints with them, finished images at once; all that has come
since the last time goes in one update. Where the store is away, it is kept and written later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, assert_never

from deployments.graph.listening.events import GraphEvent, ImagePreview, Progress
from deployments.wire.checkpoint_file import pack_part
from deployments.wire.parts import ImageCheckpoint, ImageDrawn, Part
from pipelines.errors import StoreUnavailable
from serve.jobs.job import ImageProgress, Job, JobAction, JobOutput
from serve.jobs.previews import Previews
from serve.jobs.progress import is_further, progress_json
from serve.jobs.running.outcome import Outcome, output_of
from serve.jobs.store.job_store import JobStore, Lease, Update

WRITE_EVERY_S = 0.5

logger = logging.getLogger("ray.serve")


class JobReport:
    """The listener of one held job. `parts` are the latest of each image, those of earlier runners
    first; `on_action` is called with what the owner wants, as each update answers it."""

    wants_steps = True
    wants_checkpoints = True

    def __init__(
        self,
        store: JobStore,
        lease: Lease,
        previews: Previews,
        on_action: Callable[[JobAction], None],
        *,
        parts: Mapping[int, Part],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._lease = lease
        self._previews = previews
        self._on_action = on_action
        self._now = now
        self.parts: dict[int, Part] = dict(parts)
        self._images = {each.image: each for each in lease.job.images}
        self._outputs = {each.image: each for each in lease.job.outputs}
        self._new_parts: set[int] = set()
        self._new_outputs: list[JobOutput] = []
        self._has_moved = False
        self._unanswered: Update | None = None
        self._writing = asyncio.Lock()
        self._is_closed = False
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def stored_here(self) -> frozenset[str]:
        """Ids of the files that were made while this runner held the job."""
        earlier = {each.file_id for each in self._lease.job.outputs}
        return frozenset({each.file_id for each in self._outputs.values()} - earlier)

    @property
    def wants_previews(self) -> bool:
        return self._previews.are_wanted

    def __call__(self, event: GraphEvent, /) -> None:
        match event:
            case Progress():
                self._moved(event)
            case ImageCheckpoint():
                self._add_part(event)
            case ImageDrawn():
                self._drawn(event)
            case ImagePreview():
                self._previews.put(event)
            case _:
                assert_never(event)

    def _moved(self, event: Progress) -> None:
        now = ImageProgress(
            image=event.image, phase=str(event.phase), step=event.step, total=event.num_steps
        )
        if is_further(now, self._images[event.image]):
            self._images[event.image] = now
            self._has_moved = True
            self._news.set()

    def _add_part(self, part: Part) -> None:
        self.parts[part.image] = part
        self._new_parts.add(part.image)
        self._news.set()

    def _drawn(self, event: ImageDrawn) -> None:
        # Without a file a job has nothing to show: it is drawn on from its checkpoint.
        if event.file.file_id is None or event.image in self._outputs:
            return
        output = output_of(event.image, event.file)
        self._outputs[event.image] = output
        self._new_outputs.append(output)
        self._add_part(event)
        self._urgent.set()

    async def run(self) -> None:
        """Write what there is, again and again. Raises LeaseLost."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            await self._news.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_at):
                    await self._urgent.wait()
            self._news.clear()
            self._urgent.clear()
            try:
                await self.write()
            except StoreUnavailable as error:
                logger.warning("job %s: nothing could be written: %s", self._lease.job.id, error)
                next_at = loop.time() + error.retry_after_s
            else:
                next_at = loop.time() + WRITE_EVERY_S

    async def write(self, changes: Mapping[str, Any] | None = None) -> None:
        """Write what has come, and `changes`. Raises LeaseLost, StoreUnavailable."""
        async with self._writing:
            if self._is_closed:
                return
            sending = asyncio.ensure_future(self._send(changes or {}))
            try:
                job = await asyncio.shield(sending)
            except asyncio.CancelledError:
                # What was begun is written or not before anything else is: never twice.
                await asyncio.wait([sending])
                raise
            finally:
                if sending.done() and sending.exception() is not None:
                    self._news.set()
        if job.pending_action is not None:
            self._on_action(job.pending_action)

    async def _send(self, changes: Mapping[str, Any]) -> Job:
        if self._unanswered is not None:
            await self._put(self._unanswered)
        return await self._put(await self._news_with(changes))

    async def _put(self, update: Update) -> Job:
        """Store an update. One without an answer may be stored or not: it is sent again, as it
        was, before all others."""
        try:
            job = await self._store.update(self._lease.job.id, self._lease.token, update)
        except (StoreUnavailable, asyncio.CancelledError):
            self._unanswered = update
            raise
        except BaseException:
            self._unanswered = None  # refused: sent again, it would hold up all that comes later
            raise
        self._unanswered = None
        return job

    async def _news_with(self, changes: Mapping[str, Any]) -> Update:
        """All that has come since the last time."""
        outputs, self._new_outputs = self._new_outputs, []
        parts = [self.parts[image] for image in self._new_parts]
        self._new_parts = set()
        has_moved, self._has_moved = self._has_moved, False
        seen = {"images": self._all_images(), "outputs": self._all_outputs()}
        events: list[tuple[str, Mapping[str, Any]]] = [
            ("job.image", {"output": asdict(output)}) for output in outputs
        ]
        if has_moved:
            events.append(("job.progress", {"progress": progress_json(self._all_images())}))
        packed = await asyncio.to_thread(self._packed, parts)
        return Update(at=self._now(), changes={**seen, **changes}, events=events, parts=packed)

    async def close(self, outcome: Outcome) -> Job:
        """Write how it ended, however long the store is away; the job as it is then. Raises
        LeaseLost."""
        async with self._writing:
            self._is_closed = True
            outputs = outcome.outputs or self._all_outputs()
            events: list[tuple[str, Mapping[str, Any]]] = [
                ("job.image", {"output": asdict(output)})
                for output in outputs
                if output in self._new_outputs or output.image not in self._outputs
            ]
            end = Update(
                at=self._now(),
                changes={
                    "status": outcome.status,
                    "images": self._all_images(),
                    "outputs": outputs,
                    "usage": outcome.usage,
                    "error": outcome.error,
                    "safety": outcome.safety,
                    "warnings": (*self._lease.job.warnings, *outcome.warnings),
                    "timings": outcome.timings,
                },
                events=[*events, (outcome.event, {})],
            )
            if self._unanswered is not None:
                await self._put_at_last(self._unanswered)
            return await self._put_at_last(end)

    async def _put_at_last(self, update: Update) -> Job:
        """Store an update as soon as the store is there again."""
        while True:
            try:
                return await self._put(update)
            except StoreUnavailable as error:
                job_id = self._lease.job.id
                logger.warning("job %s: its end could not be written: %s", job_id, error)
                await asyncio.sleep(error.retry_after_s)

    def _all_images(self) -> tuple[ImageProgress, ...]:
        return tuple(self._images[image] for image in sorted(self._images))

    def _all_outputs(self) -> tuple[JobOutput, ...]:
        return tuple(self._outputs[image] for image in sorted(self._outputs))

    def _packed(self, parts: Sequence[Part]) -> Mapping[int, bytes]:
        """As they are stored; one that cannot be would be drawn anew by another runner."""
        packed: dict[int, bytes] = {}
        for part in parts:
            try:
                packed[part.image] = pack_part(part)
            except ValueError as error:
                logger.warning("job %s: image %d: %s", self._lease.job.id, part.image, error)
        return packed
