"""Ticks on record: exactly those asked for, and works that notice nothing of it."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.profiler

from pipelines.contracts import LatentJob, SamplingParams
from pipelines.engine.costs.surface import CostModel, Load, Observation
from pipelines.engine.engine import Engine
from pipelines.engine.observe import recording
from pipelines.engine.observe.profiling import MAX_TICKS, MAX_TIMEOUT_S, ProfileRequest
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import InvalidRequest, Overloaded, RequestTimeout, StageFailed
from pipelines.flux1.checkpoint import load_denoiser_components
from pipelines.flux1.model import FluxModel
from pipelines.flux1.transformer import PackedFlux
from pipelines.stages.denoiser import DenoiserStage
from tests.chrome_trace import PHASES, events_of, marks_of, ticks_of
from tests.pipelines.engine.fakes import PACKED, TEXT, FakeStage, hold, job, make_engine

SOON = ProfileRequest(ticks=3, timeout_s=60)
LATE = ProfileRequest(ticks=3, timeout_s=0.05)


def profile_of(engine: Engine, request: ProfileRequest = SOON) -> list[dict[str, Any]]:
    """The events of a profile during which a job runs."""
    asked = engine.profiling.ask(request)
    engine.submit(job("profiled", num_inference_steps=10), TEXT).result(60)
    return events_of(asked.result(60).trace())


class TestWhatIsRecorded:
    def test_exactly_the_ticks_asked_for_with_what_was_in_them(self, engine: Engine) -> None:
        assert ticks_of(profile_of(engine)) == [
            "tick 1: 1 images, 20 tokens",
            "tick 2: 1 images, 20 tokens",
            "tick 3: 1 images, 20 tokens",
        ]

    def test_the_phases_of_each_tick(self, engine: Engine) -> None:
        names = [event["name"].split()[0] for event in marks_of(profile_of(engine))]
        turn = ["tick", "prepare", "step", "advance"]
        assert names == [*turn, "plan", *turn, "plan", *turn]

    def test_plans_are_seen_from_the_first_if_the_engine_is_busy(
        self, engine: Engine, stage: FakeStage
    ) -> None:
        held = hold(stage, engine, num_inference_steps=10)
        asked = engine.profiling.ask(ProfileRequest(ticks=1))
        stage.gate.set()
        held.result(60)
        events = events_of(asked.result(60).trace())
        assert [event["name"].split()[0] for event in marks_of(events)] == [
            "plan",
            "tick",
            *PHASES[1:],
        ]
        assert ticks_of(events) == ["tick 2: 1 images, 20 tokens"]

    def test_one_after_the_other(self, engine: Engine) -> None:
        assert ticks_of(profile_of(engine))[0].startswith("tick 1:")
        assert ticks_of(profile_of(engine))[0].startswith("tick 11:")

    def test_neither_the_host_nor_its_folders_nor_prompts_are_named(self, engine: Engine) -> None:
        asked = engine.profiling.ask(SOON)
        engine.submit(job("a-work-of-somebody"), TEXT).result(60)
        trace = gzip.decompress(asked.result(60).trace())
        assert json.loads(trace)["traceName"] == ""
        for secret in (tempfile.gettempdir(), str(Path.home()), "a-work-of-somebody", ".py"):
            assert secret.encode() not in trace
        assert f'"{socket.gethostname()}"'.encode() not in trace


class TestBounds:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("ticks", 0),
            ("ticks", MAX_TICKS + 1),
            ("timeout_s", 0.0),
            ("timeout_s", MAX_TIMEOUT_S + 1),
            ("timeout_s", float("nan")),
        ],
    )
    def test_a_request_out_of_range_names_its_field(self, field: str, value: Any) -> None:
        with pytest.raises(InvalidRequest, match=field):
            ProfileRequest(**{field: value})

    def test_an_idle_engine_says_that_no_tick_came(self, engine: Engine) -> None:
        with pytest.raises(RequestTimeout, match=r"no tick came within 0\.05 s"):
            engine.profiling.ask(LATE).result(60)
        assert len(ticks_of(profile_of(engine))) == 3, "and can be profiled afterwards"

    def test_what_there_is_when_the_works_have_ended(
        self, engine: Engine, stage: FakeStage
    ) -> None:
        held = hold(stage, engine)
        asked = engine.profiling.ask(ProfileRequest(ticks=MAX_TICKS, timeout_s=2))
        stage.gate.set()
        held.result(60)
        recorded = asked.result(60)
        assert 1 <= recorded.ticks <= 2
        assert len(ticks_of(events_of(recorded.trace()))) == recorded.ticks

    def test_what_there_is_when_time_is_up(self, engine: Engine, stage: FakeStage) -> None:
        stage.before_tick = lambda _: time.sleep(0.1)
        asked = engine.profiling.ask(ProfileRequest(ticks=MAX_TICKS, timeout_s=2))
        running = engine.submit(job("a", num_inference_steps=10_000), TEXT)
        assert 1 <= asked.result(60).ticks < MAX_TICKS
        assert not running.done()
        engine.cancel("a")

    def test_one_at_a_time(self, engine: Engine, stage: FakeStage) -> None:
        held = hold(stage, engine)
        first = engine.profiling.ask(SOON)
        with pytest.raises(Overloaded, match="one at a time"):
            engine.profiling.ask(SOON)
        stage.gate.set()
        held.result(60)
        engine.submit(job("b"), TEXT).result(60)
        assert first.result(60).ticks == 3

    def test_whoever_leaves_makes_room_for_the_next(self, engine: Engine) -> None:
        assert engine.profiling.ask(SOON).cancel()
        assert len(ticks_of(profile_of(engine))) == 3

    def test_one_that_was_cancelled_is_not_recorded(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.profiler, "profile", None)
        assert engine.profiling.ask(SOON).cancel()
        assert engine.submit(job("a"), TEXT).result(60).steps_run == 3
        assert not engine.profiling.is_on

    def test_a_trace_that_is_too_large_is_refused_with_what_to_do(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "MAX_TRACE_BYTES", 1000)
        with pytest.raises(StageFailed, match="profile fewer ticks"):
            profile_of(engine)

    def test_an_engine_that_ends_answers(self, stage: FakeStage) -> None:
        engine = make_engine(stage)
        engine.start()
        asked = engine.profiling.ask(SOON)
        engine.stop()
        with pytest.raises(StageFailed, match="shutting down"):
            asked.result(60)
        with pytest.raises(StageFailed, match="shutting down"):
            engine.profiling.ask(SOON)


class Broken:
    """Torch's profiler or its mark, which fails in the method that it is told to."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, *_: object, **__: object) -> Broken:
        return self

    def _run(self, method: str) -> None:
        if method == self._method:
            raise RuntimeError("CUPTI is in use")

    def start(self) -> None:
        self._run("start")

    def stop(self) -> None:
        self._run("stop")

    def export_chrome_trace(self, path: str) -> None:
        self._run("export")

    def __enter__(self) -> None:
        self._run("enter")

    def __exit__(self, *_: object) -> None:
        self._run("exit")


class TestAProfilerThatFails:
    @pytest.mark.parametrize("method", ["start", "stop", "export"])
    def test_is_news_for_who_asked_and_the_works_go_on(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        monkeypatch.setattr(torch.profiler, "profile", Broken(method))
        asked = engine.profiling.ask(SOON)
        assert engine.submit(job("a"), TEXT).result(60).steps_run == 3
        with pytest.raises(StageFailed, match="profile"):
            asked.result(60).trace()
        monkeypatch.undo()
        assert len(ticks_of(profile_of(engine))) == 3
        engine.check_health()

    @pytest.mark.parametrize("method", ["enter", "exit"])
    def test_a_mark_that_fails_is_missing(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        monkeypatch.setattr(torch.profiler, "record_function", Broken(method))
        assert ticks_of(profile_of(engine)) == []
        engine.check_health()


class TestAnEngineThatNobodyProfiles:
    def test_does_not_touch_the_profiler(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch.profiler", None)
        assert engine.submit(job("a"), TEXT).result(60).steps_run == 3

    def test_learns_what_ticks_cost_and_not_from_profiled_ones(self, stage: FakeStage) -> None:
        for is_profiled in (False, True):
            cost = CostModel([Observation(Load.of([20]), 1.0)])
            before = cost.surface
            engine = make_engine(stage, cost=cost)
            engine.start()
            if is_profiled:
                asked = engine.profiling.ask(SOON)
            engine.submit(job("a"), TEXT).result(60)
            engine.stop()
            if is_profiled:
                assert asked.result(60).ticks == 3
            assert (cost.surface == before) is is_profiled


@pytest.fixture
def real(dev_like: Path) -> Iterator[tuple[Engine, DenoiserStage]]:
    """An engine over a tiny random model."""
    loaded = load_denoiser_components(str(dev_like), device="cpu", dtype="float32")
    transformer, config = loaded
    stage = DenoiserStage(FluxModel(PackedFlux(transformer), config))
    scheduler = Scheduler(cost=PACKED, policy="edf", max_tokens=500, max_works=4)
    engine = Engine(stage, scheduler)
    engine.start()
    yield engine, stage
    engine.stop()


def test_a_real_model_shows_its_operators_and_draws_the_same(
    real: tuple[Engine, DenoiserStage],
) -> None:
    engine, stage = real
    text = stage.random_conditioning(8)
    jobs = [
        LatentJob(
            work_id=str(i),
            group=str(i),
            sampling=SamplingParams(
                height=64, width=(64, 32)[i], num_inference_steps=8, guidance_scale=3.5, seed=i
            ),
        )
        for i in range(2)
    ]

    def draw(prefix: str) -> list[torch.Tensor]:
        futures = [
            engine.submit(replace(each, work_id=prefix + each.work_id), text) for each in jobs
        ]
        return [future.result(60).packed for future in futures]

    expected = draw("before")
    asked = engine.profiling.ask(ProfileRequest(ticks=5, with_shapes=True))
    for before, profiled in zip(expected, draw("profiled"), strict=True):
        torch.testing.assert_close(profiled, before, rtol=1e-4, atol=2e-5)
    recorded = asked.result(60)
    assert recorded.ticks == 5
    events = events_of(recorded.trace())
    assert len(ticks_of(events)) == 5
    steps = [event for event in marks_of(events) if event["name"] == "step"]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    products = [event for event in operators if event["name"] == "aten::addmm"]
    assert any("Input Dims" in event["args"] for event in products)
    for step in steps:
        within = [event for event in products if 0 <= event["ts"] - step["ts"] <= step["dur"]]
        assert len(within) >= 10, "every step is a forward of the model"
