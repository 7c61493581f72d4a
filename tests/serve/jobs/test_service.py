"""Jobs from submission to their end, over real SQLite and a fake graph."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments.graph.forecast import Forecast
from pipelines.errors import (
    ConfigurationError,
    ContentPolicyViolation,
    DeadlineUnreachable,
    DegenerateImage,
    IdempotencyKeyReused,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    NotReady,
    Overloaded,
    StageFailed,
    StoreUnavailable,
)
from serve.api.planning import plan_of
from serve.api.schemas import parse_request
from serve.http import create_app
from serve.jobs.job import JobAction, JobStatus, Owner
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.fakes import services
from tests.serve.jobs.conftest import OWNER, Replica, ReplicaOf

STRANGER = Owner(tenant="stranger")


async def events_of(replica: Replica, job_id: str) -> list[tuple[int | None, str]]:
    return [(each.number, each.type) async for each in replica.jobs.events(job_id, OWNER)]


async def test_a_job_is_drawn_and_says_so(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.allow()
    job = await replica.over(await replica.submit(n=2))
    assert job.status == JobStatus.SUCCEEDED
    assert [output.seed for output in job.outputs] == [7, 8]
    assert [output.steps for output in job.outputs] == [4, 4]
    assert job.usage is not None
    assert (job.usage.total_tokens, job.usage.device_seconds) == (39, 0.5)
    assert job.timings == {"total": 1.5}
    assert job.started_at is not None
    assert job.finished_at is not None
    events = await events_of(replica, job.id)
    assert [number for number, _ in events] == list(range(1, len(events) + 1))
    types = [type_ for _, type_ in events]
    assert types[:2] == ["job.queued", "job.running"]
    assert types[-1] == "job.succeeded"
    assert types.count("job.image") == 2


async def test_what_is_drawn_is_decided_by_what_is_stored(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.allow()
    body = {
        "prompt": "a cat --ar 2:1",
        "negative_prompt": "dogs",
        "true_cfg_scale": 2.0,
        "quality": "low",
        "num_inference_steps": None,
        "output_format": "webp",
        "output_compression": 40,
        "response_format": "url",
    }
    body = {name: value for name, value in body.items() if value is not None}
    plan = plan_of(replica.services, parse_request({**body, "seed": 7, "num_inference_steps": 4}))
    await replica.over(await replica.submit(**body))
    (drawn,) = replica.graph.jobs
    assert drawn.params == plan.params
    assert drawn.finish == plan.finish


async def test_a_random_seed_is_drawn_once(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.allow()
    job = await replica.over(await replica.submit(seed=-1))
    assert job.request["seed"] == job.outputs[0].seed == replica.graph.jobs[0].params.seed


async def test_cancelled_within_a_tick(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await replica.submit(n=2)
    replica.graph.allow(5)
    await replica.until(job, "job.image")
    asked = await replica.jobs.cancel(job.id, OWNER)
    assert asked.status == JobStatus.RUNNING
    over = await replica.over(job)
    assert over.status == JobStatus.CANCELLED
    assert [output.image for output in over.outputs] == [0]
    assert replica.graph.cancelled == [job.id]
    assert (await replica.jobs.cancel(job.id, OWNER)) == over
    assert (await events_of(replica, job.id))[-1][1] == "job.cancelled"


async def test_cancelled_between_its_claim_and_its_first_step(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    store = replica.store.store
    job = await replica.submit()
    lease = await store.claim("runner", lease_s=10.0, at=1.0, free=8)
    assert lease is not None
    run = replica.jobs._run_of(lease)
    await store.ask(job.id, JobAction.CANCEL, 2.0)
    run.on_action(JobAction.CANCEL)
    await run.run()
    assert (await replica.jobs.get(job.id, OWNER)).status == JobStatus.CANCELLED
    assert replica.graph.jobs == []


async def test_cancelled_before_anybody_has_begun_it(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await replica.submit()
    assert (await replica.jobs.cancel(job.id, OWNER)).status == JobStatus.CANCELLED
    replica.jobs.start()
    assert replica.graph.jobs == []


async def test_kept_images_are_finished_where_they_are(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await replica.submit()
    replica.graph.allow(2)
    await replica.until(job, "job.progress")
    await replica.jobs.keep(job.id, OWNER)
    replica.graph.allow(1)
    over = await replica.over(job)
    assert over.status == JobStatus.SUCCEEDED
    assert over.outputs[0].steps in (2, 3)


async def test_kept_before_it_was_begun(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await replica.submit()
    await replica.jobs.keep(job.id, OWNER)
    replica.graph.allow()
    replica.jobs.start()
    assert (await replica.over(job)).outputs[0].steps == 1


async def test_others_see_nothing(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await replica.submit()
    for ask in (replica.jobs.get, replica.jobs.cancel, replica.jobs.keep, replica.jobs.delete):
        with pytest.raises(JobNotFound):
            await ask(job.id, STRANGER)
    with pytest.raises(JobNotFound):
        await anext(replica.jobs.events(job.id, STRANGER))
    assert (await replica.jobs.page(STRANGER)).jobs == ()
    assert (await replica.jobs.get(job.id, OWNER)).status == JobStatus.QUEUED


async def test_pages_lead_to_older_ones(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    jobs = [await replica.submit(seed=seed) for seed in range(5)]
    await replica.submit(tenant="stranger")
    found: list[str] = []
    cursor = None
    while True:
        page = await replica.jobs.page(OWNER, cursor=cursor, limit=2)
        found += [job.id for job in page.jobs]
        if (cursor := page.cursor) is None:
            break
        with pytest.raises(InvalidRequest, match="cursor"):
            await replica.jobs.page(STRANGER, cursor=cursor)
        with pytest.raises(InvalidRequest, match="cursor"):
            await replica.jobs.page(OWNER, cursor=cursor[:-1] + ("A" if cursor[-1] != "A" else "B"))
    assert sorted(found) == sorted(job.id for job in jobs)


async def test_a_key_is_one_job(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    first = await replica.submitted(key="k", seed=-1)
    again = await replica.submitted(key="k", seed=-1)
    assert (first.is_replay, again.is_replay) == (False, True)
    assert again.job.id == first.job.id
    with pytest.raises(IdempotencyKeyReused):
        await replica.submit(key="k", seed=8)
    assert (await replica.submit(key="k", tenant="stranger", seed=8)).id != first.job.id


async def test_a_queue_is_bounded_in_seconds_of_work(replica_of: ReplicaOf):
    bounds = {"jobs.max_waiting_s": 10.0, "jobs.max_waiting_s_per_tenant": 5.0}
    replica = await replica_of(runs=False, **bounds)
    replica.graph.forecast_of = Forecast(asleep=(), cold_start_s=0.0, work_s=4.0)
    await replica.submit()
    with pytest.raises(Overloaded, match="of your jobs") as refused:
        await replica.submit()
    assert refused.value.retry_after_s == pytest.approx(3.0)
    await replica.submit(tenant="b")
    with pytest.raises(Overloaded, match="of all jobs"):
        await replica.submit(tenant="c")


async def test_before_anything_is_known_an_image_counts_a_second(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    assert (await replica.submit(n=3)).work_s == 3.0


async def test_a_prompt_that_is_refused_makes_no_job(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    with pytest.raises(ContentPolicyViolation):
        await replica.submit(prompt="a lot of gore")
    assert (await replica.jobs.page(OWNER)).jobs == ()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            ContentPolicyViolation(
                "image 0", stage="image", category="x", score=0.9, threshold=0.5, image_index=0
            ),
            JobStatus.MODERATED,
            "content_policy_violation",
        ),
        (DegenerateImage("all one value"), JobStatus.FAILED, "degenerate_image"),
        (DeadlineUnreachable("no", earliest_s=9.0), JobStatus.EXPIRED, "deadline_unreachable"),
    ],
)
async def test_what_time_does_not_heal_is_its_end(
    replica_of: ReplicaOf, error: Exception, status: JobStatus, code: str
):
    replica = await replica_of()
    replica.graph.errors = [error]  # type: ignore[list-item]
    over = await replica.over(await replica.submit(deadline_ms=1000))
    assert over.status == status
    assert over.error is not None
    assert over.error.code == code
    assert len(replica.graph.jobs) == 1
    assert (over.safety is not None) == (status == JobStatus.MODERATED)


async def test_what_time_heals_is_waited_for(
    replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.jobs.running.retry_budget.FIRST_PAUSE_S", 0.001)
    replica = await replica_of()
    replica.graph.allow()
    replica.graph.errors = [
        NotReady("asleep"),
        Overloaded("full", retry_after_s=0.001),
        StageFailed("lost", stage="Denoiser"),
        StageFailed("lost", stage="Denoiser"),
    ]
    over = await replica.over(await replica.submit())
    assert (over.status, over.attempts) == (JobStatus.SUCCEEDED, 1)
    assert len(replica.graph.jobs) == 5


async def test_a_stage_that_keeps_failing_is_its_end(
    replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.jobs.running.retry_budget.FIRST_PAUSE_S", 0.001)
    replica = await replica_of()
    replica.graph.errors = [StageFailed("broken", stage="Denoiser") for _ in range(3)]
    over = await replica.over(await replica.submit())
    assert over.status == JobStatus.FAILED
    assert over.error is not None
    assert (over.error.message, over.error.code) == ("broken", "stage_failed")


async def test_images_without_a_file_are_no_success(
    replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.jobs.running.retry_budget.FIRST_PAUSE_S", 0.001)
    replica = await replica_of()
    replica.graph.allow()
    replica.graph.not_stored = "the disk is full"
    over = await replica.over(await replica.submit())
    assert over.error is not None
    assert "the disk is full" in over.error.message
    assert over.outputs == ()
    assert len(replica.graph.stepped) == 4  # what was drawn was not drawn again


async def test_a_bug_is_its_end_too(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.errors = [RuntimeError("a secret")]  # type: ignore[list-item]
    over = await replica.over(await replica.submit())
    assert over.error is not None
    assert over.error.code == "internal_error"
    assert "secret" not in over.error.message


async def test_deleted_with_its_files_once_it_is_over(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await replica.submit()
    with pytest.raises(JobConflict):
        await replica.jobs.delete(job.id, OWNER)
    replica.graph.allow()
    over = await replica.over(job)
    assert over.outputs[0].file_id in replica.graph.store.files
    await replica.jobs.delete(job.id, OWNER)
    assert replica.graph.store.files == {}
    with pytest.raises(JobNotFound):
        await replica.jobs.get(job.id, OWNER)


async def test_no_more_is_begun_than_there_are_places(replica_of: ReplicaOf):
    replica = await replica_of(**{"jobs.max_running": 3})
    jobs = [await replica.submit(n=2, seed=seed) for seed in (1, 2)]
    small = await replica.submit(seed=3)
    await replica.graph.entered.acquire()
    await replica.graph.entered.acquire()
    assert [job.params.num_images for job in replica.graph.jobs] == [2, 1]
    assert (await replica.jobs.get(jobs[1].id, OWNER)).status == JobStatus.QUEUED
    assert (await replica.jobs.get(small.id, OWNER)).status == JobStatus.RUNNING
    replica.graph.allow()
    for job in (*jobs, small):
        assert (await replica.over(job)).status == JobStatus.SUCCEEDED


async def test_a_job_of_more_images_than_places_runs_alone(replica_of: ReplicaOf):
    replica = await replica_of(**{"jobs.max_running": 1})
    replica.graph.allow()
    assert (await replica.over(await replica.submit(n=3))).status == JobStatus.SUCCEEDED


async def test_where_it_stands(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    replica.graph.forecast_of = Forecast(
        asleep=(), cold_start_s=0.0, queued_s=1.0, eta_s=3.0, work_s=2.0
    )
    first, second, third = [await replica.submit(seed=seed) for seed in range(3)]
    assert await replica.jobs.place(first) == (0, 3.0, "requests under way go first", "requests")
    assert await replica.jobs.place(second) == (1, 5.0, "1 job goes first", "jobs")
    assert (await replica.jobs.place(third)).reason == "2 jobs go first"
    replica.graph.forecast_of = Forecast(asleep=("Denoiser",), cold_start_s=9.0)
    assert await replica.jobs.place(first) == (0, None, "Denoiser is starting", "start")


async def test_an_event_from_the_future(replica_of: ReplicaOf):
    replica = await replica_of(runs=False)
    job = await replica.submit()
    with pytest.raises(InvalidRequest, match="Last-Event-ID: must be 0 to 1") as caught:
        await anext(replica.jobs.events(job.id, OWNER, after=2))
    assert caught.value.param == "Last-Event-ID"


async def test_previews_come_while_somebody_watches(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await replica.submit()
    replica.graph.allow(1)
    await replica.until(job, "job.progress")
    seen: list[str] = []
    async for event in replica.jobs.events(job.id, OWNER, previews=True):
        seen.append(event.type)
        if event.type == "job.progress":
            replica.graph.allow(1)
        if event.type == "job.preview":
            assert event.number is None
            replica.graph.allow()
    assert "job.preview" in seen
    assert seen[-1] == "job.succeeded"


async def test_who_watches_before_it_is_begun_sees_it_from_the_first_step(
    replica_of: ReplicaOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.jobs.event_feed.LOOK_WHERE_S", 3600.0)
    replica = await replica_of(runs=False)
    job = await replica.submit()
    events = replica.jobs.events(job.id, OWNER, previews=True)
    assert (await anext(events)).type == "job.queued"
    coming = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    replica.jobs.start()
    assert (await coming).type == "job.running"
    coming = asyncio.ensure_future(anext(events))
    previews = replica.jobs._runner.previews(job.id)
    assert previews is not None
    for _ in range(10_000):
        if previews.are_wanted:
            break
        await asyncio.sleep(0)
    replica.graph.allow(1)
    event = await coming
    while event.type != "job.preview":
        event = await anext(events)
    assert event.data["step"] == 1
    replica.graph.allow()
    await events.aclose()


async def test_without_a_watcher_there_are_none(replica_of: ReplicaOf):
    replica = await replica_of()
    replica.graph.allow()
    job = await replica.over(await replica.submit())
    assert "job.preview" not in [type_ for _, type_ in await events_of(replica, job.id)]
    assert await replica.jobs.previews(job.id, None) is None


async def test_a_store_that_is_away_refuses_new_ones_and_loses_none(replica_of: ReplicaOf):
    replica = await replica_of()
    job = await replica.submit()
    replica.graph.allow(1)
    await replica.until(job, "job.progress")
    replica.store.is_cut = True
    for ask in (replica.submit(), replica.jobs.get(job.id, OWNER)):
        with pytest.raises(StoreUnavailable):
            await ask
    replica.graph.allow()
    while not replica.graph.drawn:  # noqa: ASYNC110 it is drawn some turns of the loop later
        await asyncio.sleep(0)
    replica.store.is_cut = False
    over = await replica.over(job)
    assert (over.status, over.attempts) == (JobStatus.SUCCEEDED, 1)
    numbers = [number for number, _ in await events_of(replica, job.id)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_replica_that_is_to_go_away_begins_nothing_more(replica_of: ReplicaOf):
    first = await replica_of()
    job = await first.submit()
    await first.graph.entered.acquire()
    first.services.shutdown.begin()
    second = await replica_of()
    second.graph.allow()
    over = await second.over(job)
    assert (over.status, over.attempts) == (JobStatus.SUCCEEDED, 1)
    later = await first.submit(seed=8)
    assert (await second.over(later)).status == JobStatus.SUCCEEDED
    assert len(first.graph.jobs) == 1


async def test_what_waits_costs_the_graph_nothing(replica_of: ReplicaOf):
    bounds = {"jobs.max_waiting_s": 1e6, "jobs.max_waiting_s_per_tenant": 1e6}
    replica = await replica_of(**bounds, **{"jobs.max_running": 2})
    jobs = await asyncio.gather(*(replica.submit(seed=seed) for seed in range(2000)))
    for _ in range(2):
        await replica.graph.entered.acquire()
    assert len(replica.graph.jobs) == 2
    assert replica.services.generations.admission.in_flight == 2
    assert (await replica.jobs.place(jobs[-1])).position is not None
    await replica.jobs.close()
    assert len(replica.graph.jobs) == 2


async def test_a_database_that_cannot_be_used_is_named_at_the_start(tmp_path: Path):
    path = tmp_path / "jobs.sqlite3"
    path.write_text("not a database, but somebody's notes")
    given = services(job_store=SqliteStore(path, ttl_s=1.0))
    app = create_app(given)
    with pytest.raises(ConfigurationError, match=str(path)):
        async with app.router.lifespan_context(app):
            pass
    assert path.read_text() == "not a database, but somebody's notes"
