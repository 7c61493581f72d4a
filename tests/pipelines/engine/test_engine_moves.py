"""Works that are cut, parked, checkpointed, resumed and handed over, on a stand-in stage."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
import torch

from pipelines.contracts import (
    Checkpoint,
    Cut,
    Latents,
    StepEvent,
)
from pipelines.engine.engine import Engine
from pipelines.engine.entry import HandedOver
from pipelines.errors import (
    DegenerateImage,
)
from tests.pipelines.engine.fakes import (
    TEXT,
    FakeStage,
    Walk,
    hold,
    job,
    make_engine,
)


def test_state_is_handed_out_every_k_steps_but_not_at_the_end(engine: Engine) -> None:
    checkpoints: list[Checkpoint] = []
    engine.submit(job("a", num_inference_steps=6), TEXT, on_checkpoint=checkpoints.append).result(
        10
    )
    assert [item.step for item in checkpoints] == [2, 4]
    assert [item.latents.item() for item in checkpoints] == [2.0, 4.0]
    assert 0 < checkpoints[0].device_seconds < checkpoints[1].device_seconds


def test_a_job_goes_on_from_where_it_was(engine: Engine, stage: FakeStage) -> None:
    start = Checkpoint(
        work_id="a",
        step=4,
        latents=torch.tensor([[40.0]]),
        cuts=(Cut(2, 6),),
        device_seconds=100.0,
    )
    events: list[StepEvent] = []
    resumed = engine.submit(
        job("a", num_inference_steps=9), TEXT, start=start, on_step=events.append
    )
    latents = resumed.result(60)
    assert latents.steps_run == 6
    assert latents.packed.item() == 42.0
    assert 100.0 < latents.device_seconds < 160.0  # what it had cost before, too
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
    assert stage.entered.wait(60)
    waiting = engine.submit(job("waiting"), TEXT, on_checkpoint=checkpoints.append)
    engine.hand_over()
    stage.gate.set()
    for future in (begun, waiting):
        with pytest.raises(HandedOver):
            future.result(60)
    assert [(item.work_id, item.step) for item in checkpoints] == [("begun", 1)]
    with pytest.raises(HandedOver):
        engine.submit(job("late"), TEXT)
    engine.check_health()
    assert engine.stats().works == 0

    other = make_engine(FakeStage())
    other.start()
    resumed = other.submit(job("begun", num_inference_steps=9), TEXT, start=checkpoints[0])
    assert resumed.result(60).packed.item() == 9.0
    other.stop()


def test_a_state_that_the_device_does_not_give_back_is_handed_over_without(
    engine: Engine, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Walk) -> Checkpoint:
        raise RuntimeError("device lost")

    checkpoints: list[Checkpoint] = []
    stage.gate.clear()
    future = engine.submit(job("a"), TEXT, on_checkpoint=checkpoints.append)
    assert stage.entered.wait(60)
    monkeypatch.setattr(stage, "checkpoint", fail)
    engine.hand_over()
    stage.gate.set()
    assert isinstance(future.exception(10), HandedOver)
    assert checkpoints == []


def test_what_has_not_begun_is_shed_down_to_what_is_to_be_kept(
    serial_engine: Engine, stage: FakeStage
) -> None:
    begun = hold(stage, serial_engine)
    waiting = [serial_engine.submit(job(f"w{number}"), TEXT) for number in range(4)]
    each_s = serial_engine.stats().queued_s / 5
    assert serial_engine.rebalance(2.5 * each_s) == 2
    assert [future.done() for future in waiting] == [False, False, True, True]
    for future in waiting[2:]:
        assert isinstance(future.exception(), HandedOver)
    assert serial_engine.rebalance(0.0) == 2
    assert serial_engine.stats().works == 1
    again = serial_engine.submit(job("w3"), TEXT)
    stage.gate.set()
    assert begun.result(60).steps_run == again.result(60).steps_run


def test_stopping_while_handing_over_still_hands_over(engine: Engine, stage: FakeStage) -> None:
    future = hold(stage, engine)
    engine.hand_over()
    threading.Timer(0.05, stage.gate.set).start()
    engine.stop()
    with pytest.raises(HandedOver):
        future.result(60)


def test_a_late_request_is_cut_in_the_stage_as_planned(
    serial_engine: Engine, stage: FakeStage
) -> None:
    # 0.2 s a step, as the engine believes.
    late = serial_engine.submit(
        job("a", deadline_s=3.0, num_inference_steps=50, min_inference_steps=2), TEXT
    )
    latents = late.result(60)
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
    latents = serial_engine.submit(patient, TEXT, on_step=interrupt).result(60)
    assert latents.packed.item() == 12.0
    assert urgent[0].result(60).steps_run == 2
    assert stage.admitted == [("patient", 0), ("urgent", 0), ("patient", 3)]
    assert stage.ticks == [("patient",)] * 3 + [("urgent",)] * 2 + [("patient",)] * 3
    assert serial_engine.stats().preempted == 1


def test_a_work_that_cannot_be_parked_fails_alone(serial_engine: Engine, stage: FakeStage) -> None:
    stage.bad_checkpoint = 13
    bad = hold(stage, serial_engine, seed=13)
    good = serial_engine.submit(job("urgent", deadline_s=1.0, num_inference_steps=2), TEXT)
    stage.gate.set()
    assert good.result(60).steps_run == 2
    assert isinstance(bad.exception(10), DegenerateImage)


def test_handing_over_includes_the_parked(serial_engine: Engine, stage: FakeStage) -> None:
    checkpoints: list[Checkpoint] = []
    stage.gate.clear()
    patient = job("patient", deadline_s=500.0, num_inference_steps=6)
    parked = serial_engine.submit(patient, TEXT, on_checkpoint=checkpoints.append)
    assert stage.entered.wait(60)

    def give_up(walks: Sequence[Walk]) -> None:
        if walks[0].job.work_id == "urgent":
            serial_engine.hand_over()

    stage.before_tick = give_up
    urgent = serial_engine.submit(job("urgent", deadline_s=1.0), TEXT)
    stage.gate.set()
    for future in (parked, urgent):
        with pytest.raises(HandedOver):
            future.result(60)
    assert [(item.work_id, item.step) for item in checkpoints] == [("patient", 1)]


def test_kept_works_end_with_their_next_step_but_not_with_their_first(
    engine: Engine, stage: FakeStage
) -> None:
    running = [hold(stage, engine, num_inference_steps=9)]
    begun = Checkpoint(work_id="begun", step=4, latents=torch.tensor([[4.0]]))
    running.append(engine.submit(job("begun", num_inference_steps=9), TEXT, start=begun))
    running.append(engine.submit(job("new", num_inference_steps=9), TEXT))
    last = Checkpoint(work_id="last", step=8, latents=torch.tensor([[8.0]]))
    running.append(engine.submit(job("last", num_inference_steps=9), TEXT, start=last))
    whole = engine.submit(job("whole", num_inference_steps=9), TEXT)
    for group in ("held", "begun", "new", "last", "nobody", "held"):
        engine.keep(group)
    stage.gate.set()
    assert [each.result(60).steps_run for each in running] == [2, 5, 2, 9]
    assert [each.result(60).packed.item() for each in running] == [2.0, 5.0, 2.0, 9.0]
    assert whole.result(60).steps_run == 9
    saved = engine.stats().saved_steps
    assert (saved["kept"], saved["cut"]) == (7 + 4 + 7, 0)
    assert engine.stats().queued_s == 0


def test_a_kept_work_is_cut_where_it_is_when_its_turn_comes(
    serial_engine: Engine, stage: FakeStage
) -> None:
    """It waits, parked, while another is stepped; a checkpoint says that it was cut."""
    events: list[StepEvent] = []
    parked = hold(stage, serial_engine, num_inference_steps=9)
    urgent = serial_engine.submit(job("urgent", deadline_s=3600.0), TEXT, on_step=events.append)
    serial_engine.keep("held")
    stage.gate.set()
    assert urgent.result(60).steps_run == 3
    assert parked.result(60).steps_run == 2
    assert stage.ticks.count(("held",)) == 2


def test_what_cannot_be_cut_is_finished_as_planned(engine: Engine) -> None:
    skipping = job("a", num_inference_steps=9, skips_steps=True)
    future = engine.submit(skipping, TEXT)
    engine.keep("a")
    assert future.result(60).steps_run == engine._stage.forwards(skipping)
