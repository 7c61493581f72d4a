"""The engine's loop, on a typed stand-in for the model and on a real tiny one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from pipelines.contracts import LatentJob, Latents, StepEvent, TextConditioning, TextPrompt
from pipelines.engine.engine import Engine
from pipelines.errors import DegenerateImage, Overloaded, StageFailed
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage

TEXT = TextConditioning(
    prompt_embeds=torch.zeros(4, 8),
    pooled_prompt_embeds=torch.zeros(4),
    num_tokens=2,
    timings={"encode": 0.5},
)
JOB = LatentJob(
    work_id="a", group="g", height=64, width=64, num_inference_steps=3, guidance_scale=1.0, seed=0
)


@dataclass
class Walk:
    """The stand-in's trajectory."""

    job: LatentJob
    step: int = 0


@dataclass
class StepRecorder:
    """Honours the stage's protocol, records its ticks, and can be held, or fail for a seed."""

    ticks: list[tuple[str, ...]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    bad_admission: int = -1
    bad_tick: int = -1
    bad_finish: int = -1

    def admit(
        self, job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
    ) -> Walk:
        if job.seed == self.bad_admission:
            raise TypeError("cannot admit")
        return Walk(job)

    def tick(self, trajectories: Sequence[Walk]) -> None:
        self.entered.set()
        assert self.gate.wait(10)
        if any(walk.job.seed == self.bad_tick for walk in trajectories):
            raise RuntimeError("out of memory")
        self.ticks.append(tuple(walk.job.work_id for walk in trajectories))
        for walk in trajectories:
            walk.step += 1

    def finish(self, trajectory: Walk) -> Latents:
        if trajectory.job.seed == self.bad_finish:
            raise DegenerateImage("not finite")
        return Latents(packed=torch.zeros(1), height=64, width=64, steps_run=trajectory.step)


@pytest.fixture
def stage() -> StepRecorder:
    recorder = StepRecorder()
    recorder.gate.set()
    return recorder


@pytest.fixture
def engine(stage: StepRecorder) -> Iterator[Engine]:
    engine = Engine(stage, max_tokens_per_tick=100, max_works=4, max_queued_works=5)
    engine.start()
    yield engine
    stage.gate.set()
    engine.stop()


def job(name: str, **changes: int) -> LatentJob:
    return replace(JOB, work_id=name, **changes)


def test_a_work_runs_its_steps_and_reports_each(engine: Engine) -> None:
    events: list[StepEvent] = []
    latents = engine.submit(JOB, TEXT, on_step=events.append).result(10)
    assert latents.steps_run == 3
    assert [(event.step, event.num_steps) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert set(latents.timings) == {"encode", "denoise_wait", "denoise"}
    assert engine.stats().works == 0
    assert engine.stats().ticks == 3


def test_works_that_fit_share_ticks_and_join_in_the_middle(
    engine: Engine, stage: StepRecorder
) -> None:
    stage.gate.clear()
    first = engine.submit(job("a"), TEXT)
    assert stage.entered.wait(10)
    rest = [engine.submit(job(name), TEXT) for name in "bcdef"[:4]]
    stage.gate.set()
    for future in [first, *rest]:
        future.result(10)
    # 20 tokens each, at most 4 works: "e" waits until the first of the four is done.
    assert stage.ticks[0] == ("a",)
    assert stage.ticks[1] == ("a", "b", "c", "d")
    assert stage.ticks[3] == ("b", "c", "d", "e")


def test_a_cancelled_work_leaves_and_frees_its_place(engine: Engine, stage: StepRecorder) -> None:
    stage.gate.clear()
    doomed = engine.submit(job("a", num_inference_steps=1000), TEXT)
    other = engine.submit(job("b"), TEXT)
    assert stage.entered.wait(10)
    assert engine.cancel("a")
    stage.gate.set()
    assert other.result(10).steps_run == 3
    with pytest.raises(CancelledError):
        doomed.result(10)
    assert not engine.cancel("a")
    assert sum("a" in tick for tick in stage.ticks) <= 1


@pytest.mark.parametrize("where", ["bad_admission", "bad_tick", "bad_finish"])
def test_a_bad_work_fails_alone(engine: Engine, stage: StepRecorder, where: str) -> None:
    setattr(stage, where, 13)
    stage.gate.clear()
    good = [engine.submit(job("a"), TEXT)]
    assert stage.entered.wait(10)
    bad = engine.submit(job("bad", seed=13), TEXT)
    good.append(engine.submit(job("b"), TEXT))
    stage.gate.set()
    assert [future.result(10).steps_run for future in good] == [3, 3]
    assert bad.exception(10) is not None
    engine.check_health()
    assert engine.stats().works == 0


def test_a_listener_that_raises_fails_its_own_work_alone(engine: Engine) -> None:
    def listener(_: StepEvent) -> None:
        raise KeyError("listener")

    bad = engine.submit(job("bad"), TEXT, on_step=listener)
    good = engine.submit(job("good"), TEXT)
    assert good.result(10).steps_run == 3
    assert isinstance(bad.exception(10), KeyError)
    engine.check_health()


def test_the_queue_is_bounded_and_ids_are_unique(engine: Engine, stage: StepRecorder) -> None:
    stage.gate.clear()
    engine.submit(job("a"), TEXT)
    with pytest.raises(ValueError, match="already"):
        engine.submit(job("a"), TEXT)
    for name in "bcde":
        engine.submit(job(name), TEXT)
    with pytest.raises(Overloaded, match="5 images"):
        engine.submit(job("f"), TEXT)


def test_stopping_fails_what_is_left(engine: Engine, stage: StepRecorder) -> None:
    stage.gate.clear()
    future = engine.submit(job("a", num_inference_steps=1000), TEXT)
    assert stage.entered.wait(10)
    threading.Timer(0.05, stage.gate.set).start()
    engine.stop()
    with pytest.raises(StageFailed, match="shutting down"):
        future.result(10)
    with pytest.raises(StageFailed, match="shutting down"):
        engine.submit(job("b"), TEXT)


def test_a_dead_loop_is_seen_by_the_health_check() -> None:
    engine = Engine(StepRecorder(), max_tokens_per_tick=1, max_works=1)
    with pytest.raises(StageFailed, match="not running"):
        engine.check_health()


def test_the_real_stage_gives_the_same_latents_alone_and_in_company(dev_like: Path) -> None:
    (text,) = TextEncoderStage.load(str(dev_like)).encode(
        [TextPrompt(prompt="a cat", max_sequence_length=12)]
    )
    engine = Engine(DenoiserStage.load(str(dev_like)), max_tokens_per_tick=200, max_works=8)
    engine.start()
    try:
        alone = engine.submit(job("alone"), text).result(30)
        crowd = [
            engine.submit(job(str(i), seed=i, width=64 + 16 * i, num_inference_steps=2 + i), text)
            for i in range(4)
        ]
        again = engine.submit(job("again"), text).result(30)
        for future in crowd:
            future.result(30)
    finally:
        engine.stop()
    torch.testing.assert_close(again.packed, alone.packed, atol=1e-5, rtol=1e-5)
