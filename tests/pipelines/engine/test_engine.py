"""The engine's loop, on a typed stand-in for the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace

import pytest
import torch

from pipelines.contracts import (
    Checkpoint,
    Cut,
    LatentJob,
    Latents,
    ServiceTerms,
    StepEvent,
)
from pipelines.engine.cost import CostModel, CostSurface, Load, Observation
from pipelines.engine.engine import Engine, HandedOver
from pipelines.engine.scheduler import Scheduler
from pipelines.engine.stepper import Stepper
from pipelines.errors import (
    DeadlineUnreachable,
    DegenerateImage,
    InvalidRequest,
    Overloaded,
    StageFailed,
)
from tests.pipelines.engine.fakes import BYTES_PER_TOKEN, TEXT, FakeStage, Walk

PACKED = CostSurface(base=1.0, per_token=0.001)
ONE_AT_A_TIME = CostSurface(base=0.0, per_token=0.01)
TOKENS = 20
JOB = LatentJob(
    work_id="a", group="a", height=64, width=64, num_inference_steps=3, guidance_scale=1.0, seed=1
)


def job(
    name: str, *, deadline_s: float | None = None, refuses: bool = False, **changes: int
) -> LatentJob:
    deadline = None if deadline_s is None else time.time() + deadline_s
    terms = ServiceTerms(deadline=deadline, refuses_late=refuses)
    return replace(JOB, work_id=name, group=name, terms=terms, **changes)


def make_engine(
    stage: FakeStage,
    *,
    surface: CostSurface = PACKED,
    max_bytes: int | None = None,
    cost: CostModel | None = None,
) -> Engine:
    scheduler = Scheduler(
        cost=surface, policy="edf", max_tokens=5 * TOKENS, max_works=4, max_bytes=max_bytes
    )
    return Engine(stage, scheduler, cost=cost, checkpoint_every=2, max_queued_works=5)


@pytest.fixture
def stage() -> FakeStage:
    return FakeStage()


@pytest.fixture
def engine(stage: FakeStage) -> Iterator[Engine]:
    engine = make_engine(stage)
    engine.start()
    yield engine
    stage.gate.set()
    engine.stop()


@pytest.fixture
def serial_engine(stage: FakeStage) -> Iterator[Engine]:
    """Steps one work at a time, and keeps one trajectory in memory."""
    engine = make_engine(stage, surface=ONE_AT_A_TIME, max_bytes=BYTES_PER_TOKEN * TOKENS)
    engine.start()
    yield engine
    stage.gate.set()
    engine.stop()


def hold(stage: FakeStage, engine: Engine, name: str = "held", **changes: int) -> Future[Latents]:
    """Submit a job and hold the engine in its first tick."""
    stage.gate.clear()
    future = engine.submit(replace(job(name), **changes), TEXT)
    assert stage.entered.wait(10)
    return future


def test_the_stand_in_is_a_stepper(stage: FakeStage) -> None:
    stepper: Stepper[Walk] = stage
    assert stepper.forwards(JOB) == 3


def test_a_work_runs_its_steps_and_reports_each(engine: Engine) -> None:
    events: list[StepEvent] = []
    latents = engine.submit(JOB, TEXT, on_step=events.append).result(10)
    assert latents.steps_run == 3
    assert [(event.step, event.num_steps) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert set(latents.timings) == {"encode", "denoise_wait", "denoise"}
    stats = engine.stats()
    assert (stats.works, stats.queued_s, stats.ticks, stats.steps, stats.preempted) == (
        0,
        0,
        3,
        3,
        0,
    )


def test_works_share_ticks_and_join_in_the_middle(engine: Engine, stage: FakeStage) -> None:
    futures = [hold(stage, engine)]
    futures += [engine.submit(job(name), TEXT) for name in "bcde"]
    assert engine.stats().works == 5
    stage.gate.set()
    for future in futures:
        assert future.result(10).steps_run == 3
    assert stage.ticks[0] == ("held",)
    assert all(len(tick) <= 4 for tick in stage.ticks)
    assert len(stage.ticks) < 15 / 2
    assert engine.stats().steps == 15


def test_a_cancelled_work_leaves_at_the_next_tick(engine: Engine, stage: FakeStage) -> None:
    doomed = hold(stage, engine, num_inference_steps=1000)
    other = engine.submit(job("b"), TEXT)
    assert engine.cancel("held")
    assert not engine.cancel("held")
    stage.gate.set()
    assert other.result(10).steps_run == 3
    with pytest.raises(CancelledError):
        doomed.result(10)
    assert sum("held" in tick for tick in stage.ticks) == 1


def test_a_work_may_come_again_under_an_id_that_was_cancelled(
    engine: Engine, stage: FakeStage
) -> None:
    hold(stage, engine, num_inference_steps=1000)
    engine.cancel("held")
    again = engine.submit(job("held"), TEXT)
    stage.gate.set()
    assert again.result(10).steps_run == 3
    assert stage.admitted == [("held", 0), ("held", 0)]


def test_a_caller_who_cancels_the_future_itself_harms_nobody(
    engine: Engine, stage: FakeStage
) -> None:
    held = hold(stage, engine)
    dropped = engine.submit(job("b"), TEXT)
    assert dropped.cancel()
    assert held.cancel()
    stage.gate.set()
    assert engine.submit(job("c"), TEXT).result(10).steps_run == 3
    engine.check_health()
    assert engine.stats().works == 0
    assert not any("b" in tick for tick in stage.ticks)


@pytest.mark.parametrize("where", ["bad_admission", "bad_tick", "bad_checkpoint", "bad_finish"])
def test_a_bad_work_fails_alone(engine: Engine, stage: FakeStage, where: str) -> None:
    setattr(stage, where, 13)
    good = [hold(stage, engine)]
    bad = engine.submit(job("bad", seed=13), TEXT, on_checkpoint=lambda _: None)
    good.append(engine.submit(job("b"), TEXT))
    stage.gate.set()
    assert [future.result(10).packed.item() for future in good] == [3.0, 3.0]
    assert isinstance(bad.exception(10), (TypeError, RuntimeError, DegenerateImage))
    engine.check_health()
    assert engine.stats().works == 0


def test_a_listener_that_raises_fails_its_own_work_alone(engine: Engine) -> None:
    def listener(_: object) -> None:
        raise KeyError("listener")

    bad = [
        engine.submit(job("bad step"), TEXT, on_step=listener),
        engine.submit(job("bad checkpoint"), TEXT, on_checkpoint=listener),
    ]
    good = engine.submit(job("good"), TEXT)
    assert good.result(10).steps_run == 3
    assert all(isinstance(future.exception(10), KeyError) for future in bad)
    engine.check_health()


def test_a_listener_may_submit_and_cancel(engine: Engine) -> None:
    later: list[Future[Latents]] = []

    def listener(event: StepEvent) -> None:
        if event.step == 1:
            later.append(engine.submit(job("later"), TEXT))
            engine.cancel("a")

    first = engine.submit(JOB, TEXT, on_step=listener)
    with pytest.raises(CancelledError):
        first.result(10)
    assert later[0].result(10).steps_run == 3


def test_the_queue_is_bounded_and_ids_are_unique(engine: Engine, stage: FakeStage) -> None:
    hold(stage, engine)
    with pytest.raises(ValueError, match="already running"):
        engine.submit(job("held"), TEXT)
    for name in "bcde":
        engine.submit(job(name), TEXT)
    with pytest.raises(Overloaded, match="5 images"):
        engine.submit(job("f"), TEXT)


def test_state_is_handed_out_every_k_steps_but_not_at_the_end(engine: Engine) -> None:
    checkpoints: list[Checkpoint] = []
    engine.submit(job("a", num_inference_steps=6), TEXT, on_checkpoint=checkpoints.append).result(
        10
    )
    assert [item.step for item in checkpoints] == [2, 4]
    assert [item.latents.item() for item in checkpoints] == [2.0, 4.0]


def test_a_job_goes_on_from_where_it_was(engine: Engine, stage: FakeStage) -> None:
    start = Checkpoint(
        work_id="a", step=4, latents=torch.tensor([[40.0]]), cuts=(Cut(2, 6),), velocity=None
    )
    events: list[StepEvent] = []
    resumed = engine.submit(
        job("a", num_inference_steps=9), TEXT, start=start, on_step=events.append
    )
    latents = resumed.result(10)
    assert latents.steps_run == 6
    assert latents.packed.item() == 42.0
    assert [(event.step, event.num_steps) for event in events] == [(5, 6), (6, 6)]
    assert stage.admitted == [("a", 4)]


def test_handing_over_gives_each_begun_work_a_last_checkpoint(
    engine: Engine, stage: FakeStage
) -> None:
    checkpoints: list[Checkpoint] = []
    stage.gate.clear()
    begun = engine.submit(
        job("begun", num_inference_steps=9), TEXT, on_checkpoint=checkpoints.append
    )
    assert stage.entered.wait(10)
    waiting = engine.submit(job("waiting"), TEXT, on_checkpoint=checkpoints.append)
    engine.hand_over()
    stage.gate.set()
    for future in (begun, waiting):
        with pytest.raises(HandedOver):
            future.result(10)
    assert [(item.work_id, item.step) for item in checkpoints] == [("begun", 1)]
    with pytest.raises(HandedOver):
        engine.submit(job("late"), TEXT)
    engine.check_health()
    assert engine.stats().works == 0

    other = make_engine(FakeStage())
    other.start()
    resumed = other.submit(job("begun", num_inference_steps=9), TEXT, start=checkpoints[0])
    assert resumed.result(10).packed.item() == 9.0
    other.stop()


def test_stopping_while_handing_over_still_hands_over(engine: Engine, stage: FakeStage) -> None:
    future = hold(stage, engine)
    engine.hand_over()
    threading.Timer(0.05, stage.gate.set).start()
    engine.stop()
    with pytest.raises(HandedOver):
        future.result(10)


def test_a_late_request_is_cut_in_the_stage_as_planned(
    serial_engine: Engine, stage: FakeStage
) -> None:
    # 0.2 s a step, as the engine believes.
    late = serial_engine.submit(
        job("a", deadline_s=3.0, num_inference_steps=50, min_inference_steps=2), TEXT
    )
    latents = late.result(10)
    assert 2 <= latents.steps_run <= 12
    assert latents.packed.item() == latents.steps_run


def test_a_work_is_parked_for_a_more_urgent_one_and_comes_back(
    serial_engine: Engine, stage: FakeStage
) -> None:
    urgent: list[Future[Latents]] = []

    def interrupt(event: StepEvent) -> None:
        if event.step == 3:
            tight = job("urgent", deadline_s=1.0, num_inference_steps=2)
            urgent.append(serial_engine.submit(tight, TEXT))

    patient = job("patient", deadline_s=500.0, num_inference_steps=6, seed=2)
    latents = serial_engine.submit(patient, TEXT, on_step=interrupt).result(10)
    assert latents.packed.item() == 12.0
    assert urgent[0].result(10).steps_run == 2
    assert stage.admitted == [("patient", 0), ("urgent", 0), ("patient", 3)]
    assert stage.ticks == [("patient",)] * 3 + [("urgent",)] * 2 + [("patient",)] * 3
    assert serial_engine.stats().preempted == 1


def test_a_work_that_cannot_be_parked_fails_alone(serial_engine: Engine, stage: FakeStage) -> None:
    stage.bad_checkpoint = 13
    bad = hold(stage, serial_engine, seed=13)
    good = serial_engine.submit(job("urgent", deadline_s=1.0, num_inference_steps=2), TEXT)
    stage.gate.set()
    assert good.result(10).steps_run == 2
    assert isinstance(bad.exception(10), DegenerateImage)


def test_handing_over_includes_the_parked(serial_engine: Engine, stage: FakeStage) -> None:
    checkpoints: list[Checkpoint] = []
    stage.gate.clear()
    patient = job("patient", deadline_s=500.0, num_inference_steps=6)
    parked = serial_engine.submit(patient, TEXT, on_checkpoint=checkpoints.append)
    assert stage.entered.wait(10)

    def give_up(walks: Sequence[Walk]) -> None:
        if walks[0].job.work_id == "urgent":
            serial_engine.hand_over()

    stage.before_tick = give_up
    urgent = serial_engine.submit(job("urgent", deadline_s=1.0), TEXT)
    stage.gate.set()
    for future in (parked, urgent):
        with pytest.raises(HandedOver):
            future.result(10)
    assert [(item.work_id, item.step) for item in checkpoints] == [("patient", 1)]


def test_a_deadline_that_cannot_be_kept_is_refused_with_the_earliest_that_can(
    serial_engine: Engine, stage: FakeStage
) -> None:
    hold(stage, serial_engine, num_inference_steps=100)  # 20 s of work, without a deadline
    with pytest.raises(DeadlineUnreachable) as never:
        serial_engine.submit(job("a", deadline_s=0.5, refuses=True), TEXT)
    assert never.value.retry_after_s is None
    assert 0.5 < never.value.earliest_s < 2.0
    kept = serial_engine.submit(
        job("b", deadline_s=8.0, refuses=True, num_inference_steps=28), TEXT
    )
    with pytest.raises(DeadlineUnreachable) as later:
        serial_engine.submit(job("c", deadline_s=3.0, refuses=True, num_inference_steps=8), TEXT)
    assert later.value.retry_after_s is not None
    assert 0 < later.value.retry_after_s < later.value.earliest_s
    assert "deadline_ms" in str(later.value)
    late = serial_engine.submit(job("best effort", deadline_s=0.1), TEXT)
    stage.gate.set()
    assert kept.result(10).steps_run == 28
    assert late.result(10).steps_run == 3


def test_what_can_never_fit_is_refused(engine: Engine, serial_engine: Engine) -> None:
    for each in (engine, serial_engine):
        with pytest.raises(InvalidRequest, match="size: 512x512") as error:
            each.submit(job("large", height=512, width=512), TEXT)
        assert error.value.param == "size"
    negative = replace(TEXT)
    with pytest.raises(InvalidRequest, match="MiB"):
        serial_engine.submit(JOB, TEXT, negative)
    assert engine.submit(JOB, TEXT, negative).result(10).steps_run == 3


def test_stopping_fails_what_is_left(engine: Engine, stage: FakeStage) -> None:
    future = hold(stage, engine, num_inference_steps=1000)
    threading.Timer(0.05, stage.gate.set).start()
    engine.stop()
    with pytest.raises(StageFailed, match="shutting down"):
        future.result(10)
    with pytest.raises(StageFailed, match="shutting down"):
        engine.submit(job("b"), TEXT)
    engine.check_health()


def test_a_dead_loop_is_seen_by_the_health_check() -> None:
    engine = make_engine(FakeStage())
    with pytest.raises(StageFailed, match="not running"):
        engine.check_health()


def test_the_cost_model_learns_from_whole_ticks() -> None:
    load = Load.of([TOKENS])
    cost = CostModel([Observation(load, 1000.0)])
    engine = make_engine(FakeStage(), surface=cost.surface, cost=cost)
    engine.start()
    engine.submit(job("a", num_inference_steps=100), TEXT).result(10)
    engine.stop()
    assert cost.surface.seconds(load) < 500.0
