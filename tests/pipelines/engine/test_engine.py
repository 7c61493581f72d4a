"""The engine's loop, on a typed stand-in for the model."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import CancelledError, Future
from dataclasses import replace

import pytest

from pipelines.contracts import (
    Latents,
    ServiceTerms,
    StepEvent,
)
from pipelines.engine.costs.surface import CostModel, CostSurface, Load, Observation
from pipelines.engine.engine import Engine
from pipelines.engine.entry import HandedOver
from pipelines.engine.observe.stats import RanTick
from pipelines.engine.stepper import Stepper
from pipelines.errors import (
    DeadlineUnreachable,
    DegenerateImage,
    InvalidRequest,
    Overloaded,
    StageFailed,
    StageLost,
)
from tests.pipelines.engine.fakes import (
    JOB,
    ONE_AT_A_TIME,
    PACKED,
    TEXT,
    TOKENS,
    FakeStage,
    Walk,
    hold,
    job,
    make_engine,
)


def test_the_stand_in_is_a_stepper(stage: FakeStage) -> None:
    stepper: Stepper[Walk] = stage
    assert stepper.forwards(JOB) == 3


def test_a_work_runs_its_steps_and_reports_each(engine: Engine) -> None:
    events: list[StepEvent] = []
    latents = engine.submit(JOB, TEXT, on_step=events.append).result(60)
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
        assert future.result(60).steps_run == 3
    assert stage.ticks[0] == ("held",)
    assert all(len(tick) <= 4 for tick in stage.ticks)
    assert len(stage.ticks) < 15 / 2
    assert engine.stats().steps == 15


def test_the_seconds_of_a_tick_are_shared_out_by_tokens(stage: FakeStage) -> None:
    """Both segments of true guidance count."""
    ticks: list[RanTick] = []
    engine = make_engine(stage, on_tick=ticks.append)
    names = ("held", "plain", "guided")
    jobs = [replace(job(name), terms=ServiceTerms(tenant=name)) for name in names]
    engine.start()
    try:
        stage.gate.clear()
        futures = [engine.submit(jobs[0], TEXT)]
        assert stage.entered.wait(60)
        futures += [engine.submit(jobs[1], TEXT), engine.submit(jobs[2], TEXT, TEXT)]
        stage.gate.set()
        charged = [future.result(60).device_seconds for future in futures]
    finally:
        engine.stop()
    expected: dict[str, float] = dict.fromkeys(names, 0.0)
    for tick in ticks:
        tokens = sum(load.tokens for _, load in tick.works)
        for tenant, load in tick.works:
            expected[tenant] += tick.seconds * load.tokens / tokens
    assert charged == pytest.approx(list(expected.values()))
    assert charged[2] == pytest.approx(2 * charged[1])
    assert sum(charged) == pytest.approx(sum(tick.seconds for tick in ticks))


def test_a_cancelled_work_leaves_at_the_next_tick(engine: Engine, stage: FakeStage) -> None:
    doomed = hold(stage, engine, num_inference_steps=1000)
    other = engine.submit(job("b"), TEXT)
    assert engine.cancel("held")
    assert not engine.cancel("held")
    stage.gate.set()
    assert other.result(60).steps_run == 3
    with pytest.raises(CancelledError):
        doomed.result(60)
    assert sum("held" in tick for tick in stage.ticks) == 1


def test_a_work_may_come_again_under_an_id_that_was_cancelled(
    engine: Engine, stage: FakeStage
) -> None:
    hold(stage, engine, num_inference_steps=1000)
    engine.cancel("held")
    again = engine.submit(job("held"), TEXT)
    stage.gate.set()
    assert again.result(60).steps_run == 3
    assert stage.admitted == [("held", 0), ("held", 0)]


def test_a_caller_who_cancels_the_future_itself_harms_nobody(
    engine: Engine, stage: FakeStage
) -> None:
    held = hold(stage, engine)
    dropped = engine.submit(job("b"), TEXT)
    assert dropped.cancel()
    assert held.cancel()
    stage.gate.set()
    assert engine.submit(job("c"), TEXT).result(60).steps_run == 3
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
    assert [future.result(60).packed.item() for future in good] == [3.0, 3.0]
    assert isinstance(bad.exception(10), (TypeError, RuntimeError, DegenerateImage))
    engine.check_health()
    assert engine.stats().works == 0


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engine.breaker.PAUSE_S", 0.01)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("surface", [PACKED, ONE_AT_A_TIME])
def test_a_lost_device_ends_the_loop_and_most_go_on_elsewhere(
    stage: FakeStage, surface: CostSurface
) -> None:
    """Three requests make it suspect, three after a pause prove it."""

    def fail(_: object) -> None:
        raise RuntimeError("device lost")

    engine = make_engine(stage, surface=surface, max_queued_works=10)
    engine.start()
    first = hold(stage, engine)
    futures = [first, *(engine.submit(job(name), TEXT) for name in "bcdefgh")]
    stage.before_tick = fail
    stage.gate.set()
    errors = Counter(type(future.exception(10)) for future in futures)
    assert errors == {RuntimeError: 6, HandedOver: 2}
    with pytest.raises(HandedOver):
        engine.submit(job("i"), TEXT)
    with pytest.raises(StageFailed, match="not running"):
        engine.check_health()
    engine.stop()


@pytest.mark.parametrize("where", ["tick", "admit"])
def test_a_lost_stage_gives_everything_away_at_once(
    stage: FakeStage, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No work is at fault, so none fails, and nothing is tried again."""

    def fail(*_: object) -> None:
        raise StageLost("a rank is gone", stage="Denoiser")

    engine = make_engine(stage)
    engine.start()
    first = hold(stage, engine)
    if where == "tick":
        stage.before_tick = fail
    else:
        monkeypatch.setattr(stage, "admit", fail)
    futures = [first, *(engine.submit(job(name), TEXT) for name in "bcd")]
    stage.gate.set()
    assert {type(future.exception(10)) for future in futures} == {HandedOver}
    with pytest.raises(StageFailed, match="not running"):
        engine.check_health()
    engine.stop()


@pytest.mark.usefixtures("no_pause")
def test_a_stage_that_fails_for_a_moment_is_tried_again(engine: Engine, stage: FakeStage) -> None:
    calls = 0

    def fail_for_a_moment(_: object) -> None:
        nonlocal calls
        calls += 1
        if 2 <= calls <= 5:  # one packed tick, and three works alone
            raise RuntimeError("no memory for now")

    stage.before_tick = fail_for_a_moment
    first = hold(stage, engine)
    futures = [first, *(engine.submit(job(name), TEXT) for name in "bcde")]
    stage.gate.set()
    errors = Counter(type(future.exception(10)) for future in futures)
    assert errors == {RuntimeError: 3, type(None): 2}
    engine.check_health()


def test_requests_that_fail_between_others_that_do_not_break_nothing(
    serial_engine: Engine, stage: FakeStage
) -> None:
    stage.bad_tick = 13
    for turn in range(5):
        bad = serial_engine.submit(job(f"bad {turn}", seed=13), TEXT)
        assert isinstance(bad.exception(10), RuntimeError)
        assert serial_engine.submit(job(f"good {turn}"), TEXT).result(60).steps_run == 3
    serial_engine.check_health()


def test_a_listener_that_raises_fails_its_own_work_alone(engine: Engine) -> None:
    def listener(_: object) -> None:
        raise KeyError("listener")

    bad = [
        engine.submit(job("bad step"), TEXT, on_step=listener),
        engine.submit(job("bad checkpoint"), TEXT, on_checkpoint=listener),
    ]
    good = engine.submit(job("good"), TEXT)
    assert good.result(60).steps_run == 3
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
        first.result(60)
    assert later[0].result(60).steps_run == 3


def test_the_queue_is_bounded_and_ids_are_unique(engine: Engine, stage: FakeStage) -> None:
    hold(stage, engine)
    with pytest.raises(ValueError, match="already running"):
        engine.submit(job("held"), TEXT)
    for name in "bcde":
        engine.submit(job(name), TEXT)
    with pytest.raises(Overloaded, match="5 images"):
        engine.submit(job("f"), TEXT)


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
    assert kept.result(60).steps_run == 28
    assert late.result(60).steps_run == 3


def test_what_can_never_fit_is_refused(engine: Engine, serial_engine: Engine) -> None:
    for each in (engine, serial_engine):
        with pytest.raises(InvalidRequest, match="size: 512x512") as error:
            each.submit(job("large", height=512, width=512), TEXT)
        assert error.value.param == "size"
    negative = replace(TEXT)
    with pytest.raises(InvalidRequest, match="MiB"):
        serial_engine.submit(JOB, TEXT, negative)
    assert engine.submit(JOB, TEXT, negative).result(60).steps_run == 3


def test_stopping_fails_what_is_left(engine: Engine, stage: FakeStage) -> None:
    future = hold(stage, engine, num_inference_steps=1000)
    threading.Timer(0.05, stage.gate.set).start()
    engine.stop()
    with pytest.raises(StageFailed, match="shutting down"):
        future.result(60)
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
    engine.submit(job("a", num_inference_steps=100), TEXT).result(60)
    engine.stop()
    assert cost.surface.seconds(load) < 500.0
