"""What is written of a job that is drawn here, where the store may be away for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.graph.listening.events import Phase, Progress
from deployments.wire.parts import ImageDrawn
from pipelines.contracts import FinishedImage
from pipelines.errors import StoreUnavailable
from serve.jobs.job import ImageProgress, JobAction, JobStatus
from serve.jobs.previews import Previews
from serve.jobs.running.job_report import JobReport
from serve.jobs.running.outcome import CANCELLED
from serve.jobs.store.job_store import Lease
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.jobs.conftest import Cuttable
from tests.serve.jobs.store.samples import LEASE_S, TTL_S, UNBOUNDED, a_job

JOB = "job_1"
IMAGES = tuple(ImageProgress(image=i, phase="queued", step=0, total=4) for i in range(2))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Cuttable]:
    """With one job, which is queued."""
    store = Cuttable(SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=TTL_S))
    await store.store.open()
    await store.store.submit(a_job(JOB, images=IMAGES), UNBOUNDED)
    yield store
    await store.store.close()


class Reported:
    """A report of the job, as held by a runner, and what its owner was `heard` to want."""

    def __init__(self, store: Any, lease: Lease) -> None:
        self.heard: list[JobAction] = []
        self.lease = lease
        previews = Previews(lease.token, lambda _: None)
        self.report = JobReport(store, lease, previews, self.heard.append, parts={}, now=lambda: 3)


@pytest.fixture
async def reported(store: Cuttable) -> Reported:
    return Reported(store, await claim(store))


async def claim(store: Cuttable) -> Lease:
    lease = await store.store.claim("runner", lease_s=LEASE_S, at=2.0, free=2)
    assert lease is not None
    return lease


def drawn(image: int) -> ImageDrawn:
    file = FinishedImage(
        b64=None,
        file_id=f"file_{image}",
        output_format="png",
        width=64,
        height=64,
        seed=7,
        sha256="b" * 64,
        num_bytes=100,
    )
    return ImageDrawn(image=image, file=file, prompts=())


async def test_what_the_owner_wants_is_heard_with_each_answer(store: Cuttable, reported: Reported):
    await reported.report.write()
    assert reported.heard == []
    await store.store.ask(JOB, JobAction.KEEP, 3.0)
    await reported.report.write()
    assert reported.heard == [JobAction.KEEP]


async def test_what_could_not_be_written_is_written_with_what_comes_after(
    store: Cuttable, reported: Reported
):
    reported.report(drawn(0))
    store.is_cut = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await reported.report.write()
    store.is_cut = False
    reported.report(Progress(image=1, phase=Phase.DENOISE, step=2, num_steps=4))
    await reported.report.write()
    events = await store.store.events(JOB, after=2)
    assert [event.type for event in events] == ["job.image", "job.progress"]
    await store.store.release(JOB, reported.lease.token)
    assert list((await claim(store)).parts) == [0]  # nobody draws it again


async def test_an_image_that_could_not_be_written_is_told_of_before_the_end(
    store: Cuttable, reported: Reported
):
    reported.report(drawn(0))
    store.is_cut = True
    with pytest.raises(StoreUnavailable):
        await reported.report.write()
    store.is_cut = False
    job = await reported.report.close(CANCELLED)
    assert [output.image for output in job.outputs] == [0]
    events = await store.store.events(JOB, after=2)
    assert [event.type for event in events] == ["job.image", "job.cancelled"]


async def test_what_the_store_refuses_holds_up_nothing_later(
    reported: Reported,
):
    with pytest.raises(ValueError, match="an update cannot set tenant"):
        await reported.report.write({"tenant": "another's"})
    job = await reported.report.close(CANCELLED)
    assert job.status is JobStatus.CANCELLED
