"""Is the simulator right? The same arrivals through the real engine and through the simulated one.

What the engine spends beside its ticks is measured right before and right after each compared run,
with other arrivals. Of the compared run itself the simulator is told one thing that is none of the
engine's doing: the machine's pace, by second. A shared machine's speed changes by a tenth within a
minute, and near load 1.0 a wait changes by many times as much. How far off a steady machine
would have been is told too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.engine_model import (
    Calibration,
    EngineTimes,
    engine_times,
    pace_of,
    stretched,
)
from benchmarks.live import Call, TimedStage, run_live
from benchmarks.replays import Run, run, summarise
from benchmarks.simulation import EngineModel, Overheads, Pace, Request
from benchmarks.trace import Arrival
from pipelines.catalog import ModelSpec
from pipelines.contracts import Conditioning
from pipelines.engine.costs.surface import CostModel, CostSurface, fit
from pipelines.engine.engine import Engine
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.stepper import Stepper

TOLERANCE = 0.1
"""By how much a simulated mean latency may be off."""
MAX_TOKENS = 16_384
MAX_WORKS = 32
CHECKPOINT_EVERY = 5

Conditionings = Mapping[str, Conditioning]
Encode = Callable[[Sequence[Arrival]], Conditionings]


class Match(NamedTuple):
    """One load, live and simulated: at the pace of the live machine, and on a steady one.

    `times` are those that the simulated engine had.
    """

    live: Run
    simulated: Run
    steady: Run
    times: EngineTimes
    pace: Pace

    @property
    def errors(self) -> Mapping[str, float]:
        """Of the simulation at the live machine's pace.

        |simulated / live - 1| of mean and 95th percentile; of the deadlines the difference.
        """
        return self._errors(self.simulated)

    @property
    def errors_steady(self) -> Mapping[str, float]:
        """As `errors`, of the simulation on a steady machine."""
        return self._errors(self.steady)

    def _errors(self, run: Run) -> Mapping[str, float]:
        live, simulated = self.live.summary, run.summary
        return {
            "mean_s": abs(simulated.mean_s / live.mean_s - 1),
            "p95_s": abs(simulated.p95_s / live.p95_s - 1),
            "met": abs(simulated.met - live.met),
        }


class Matcher:
    """Runs the real engine over `stage` and the simulated one."""

    def __init__(
        self,
        stage: Stepper[Any],
        spec: ModelSpec,
        calibration: Calibration,
        encode: Encode,
        policy: Policy,
    ) -> None:
        self._stage = stage
        self._spec = spec
        self._calibration = calibration
        self._encode = encode
        self._policy: Policy = policy
        self._calls: list[Call] = []
        """Of all runs that only show how long the engine takes."""

    def learn(self, arrivals: Sequence[Arrival]) -> Sequence[Call]:
        """Serve arrivals that are compared with nothing; the calls of the stage."""
        _, calls = self._serve(arrivals)
        self._calls += calls
        return calls

    def match(
        self,
        arrivals: Sequence[Arrival],
        requests: Sequence[Request],
        *,
        before: Sequence[Arrival],
        after: Sequence[Arrival],
    ) -> Match:
        """Serve `arrivals` in real time, with the runs around it, and simulate them.

        `requests` are the simulator's view of `arrivals`.
        """
        calls = list(self.learn(before))
        latencies, live_calls = self._serve(arrivals)
        calls += self.learn(after)
        times = engine_times(calls, self._calibration.surface)
        model = self._model(times)
        pace = pace_of(live_calls, model.cost, began=live_calls[0].began - arrivals[0].at_s)
        simulated, steady = (
            run(requests, each, self._policy, replicas=1, seed=0)
            for each in (replace(model, pace=pace), model)
        )
        summary = summarise(latencies, [request.deadline_s for request in requests])
        live = Run(summary, _utilisation(live_calls, arrivals), len(requests))
        return Match(live, simulated, steady, times, pace)

    @property
    def model(self) -> EngineModel:
        """The simulated engine, from all runs so far but the compared ones."""
        return self._model(engine_times(self._calls, self._calibration.surface))

    def _model(self, times: EngineTimes) -> EngineModel:
        surface = fit(stretched(self._calibration.fitted, times.stretch))
        return engine_model(surface, times.overheads)

    def _serve(self, arrivals: Sequence[Arrival]) -> tuple[list[float], Sequence[Call]]:
        stretch = 1.0
        if self._calls:
            stretch = engine_times(self._calls, self._calibration.surface).stretch
        cost = CostModel(stretched(self._calibration.fitted, stretch))
        stage = TimedStage(self._stage)
        engine = Engine(
            stage,
            engine_model(cost.surface, Overheads()).scheduler(self._policy),
            cost=cost,
            checkpoint_every=CHECKPOINT_EVERY,
        )
        conditionings = self._encode(arrivals)
        engine.start()
        try:
            return run_live(engine, arrivals, conditionings, self._spec), stage.calls
        finally:
            engine.stop()


def engine_model(surface: CostSurface, overheads: Overheads) -> EngineModel:
    """An engine with this benchmark's bounds."""
    return EngineModel(
        cost=surface,
        overheads=overheads,
        max_tokens=MAX_TOKENS,
        max_works=MAX_WORKS,
        checkpoint_every=CHECKPOINT_EVERY,
    )


def _utilisation(calls: Sequence[Call], arrivals: Sequence[Arrival]) -> float:
    """Share of the time from the first to the last arrival that the stage was busy in."""
    window_s = arrivals[-1].at_s - arrivals[0].at_s
    began = calls[0].began
    busy = sum(
        min(call.ended, began + window_s) - call.began
        for call in calls
        if call.began < began + window_s
    )
    return busy / window_s
