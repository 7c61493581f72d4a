"""What an engine counts of ticks, and of steps that it need not run."""

from __future__ import annotations

from dataclasses import replace

from pipelines.contracts import LatentJob
from pipelines.engine.costs.surface import Load
from pipelines.engine.engine import Engine
from pipelines.engine.observe.stats import RanTick
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.skipping import forwards_of
from tests.jobs import with_sampling
from tests.pipelines.engine.fakes import PACKED, TEXT, TOKENS, FakeStage, hold, job


def listening(stage: FakeStage, ticks: list[RanTick]) -> Engine:
    scheduler = Scheduler(cost=PACKED, policy="edf", max_tokens=5 * TOKENS, max_works=4)
    return Engine(stage, scheduler, on_tick=ticks.append)


def test_each_tick_is_told_with_whose_works_it_stepped(stage: FakeStage) -> None:
    ticks: list[RanTick] = []
    engine = listening(stage, ticks)
    jobs = [
        replace(job(name), terms=replace(job(name).terms, tenant=name)) for name in ("anna", "ben")
    ]
    futures = [engine.submit(each, TEXT) for each in jobs]
    engine.start()
    for future in futures:
        future.result(60)
    engine.stop()
    load = Load.of([TOKENS])
    assert [sorted(tick.works) for tick in ticks] == [[("anna", load), ("ben", load)]] * 3
    assert all(tick.seconds > 0 for tick in ticks)
    stats = engine.stats()
    assert (stats.ticks, stats.steps) == (3, 6)


def test_only_works_that_did_their_step_are_told(stage: FakeStage) -> None:
    ticks: list[RanTick] = []
    engine = listening(stage, ticks)
    stage.bad_tick = 13
    good = engine.submit(job("good"), TEXT)
    bad = engine.submit(with_sampling(job("bad"), seed=13), TEXT)
    engine.start()
    good.result(60)
    assert bad.exception(10) is not None
    engine.stop()
    assert [len(tick.works) for tick in ticks] == [1, 1, 1]
    assert engine.stats().steps == 3


def test_a_cancelled_work_saves_the_steps_that_it_had_left(
    engine: Engine, stage: FakeStage
) -> None:
    hold(stage, engine, num_inference_steps=50)
    engine.cancel("held")
    engine.cancel("held")
    stage.gate.set()
    stats = engine.stats()
    assert stats.cancelled == 1
    assert stats.saved_steps["cancelled"] == 50


def test_what_is_done_and_then_cancelled_saves_nothing(engine: Engine) -> None:
    engine.submit(job("a"), TEXT).result(60)
    engine.cancel("a")
    stats = engine.stats()
    assert (stats.cancelled, stats.finished) == (0, 1)
    assert set(stats.saved_steps.values()) == {0}


def test_a_plan_that_skips_saves_what_it_skips() -> None:
    class Skipping(FakeStage):
        def forwards(self, job: LatentJob) -> int:
            return forwards_of(job.sampling)

    engine = listening(Skipping(), [])
    engine.start()
    skips = with_sampling(job("a"), num_inference_steps=10, skips_steps=True)
    run = engine.submit(skips, TEXT).result(60).steps_run
    engine.stop()
    expected = {"cancelled": 0, "cut": 0, "kept": 0, "skipped": 10 - run}
    assert engine.stats().saved_steps == expected
    assert run == 6


def test_a_cut_saves_the_steps_that_were_asked_for_beyond_it(engine: Engine) -> None:
    cut = with_sampling(job("a", deadline_s=30.0), num_inference_steps=60, min_inference_steps=10)
    latents = engine.submit(cut, TEXT).result(60)
    assert latents.steps_run < 60  # a tick should take a second: 30 of them, less a margin
    assert engine.stats().saved_steps["cut"] == 60 - latents.steps_run
