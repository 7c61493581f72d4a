"""Is the simulator right? The same arrivals through the real engine and through the simulated one.

The machine's speed drifts, so what the engine spends beside its ticks is measured right before and
right after each compared run, with other arrivals; the compared run itself teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.engine_model import Calibration, EngineTimes, engine_times, stretched
from benchmarks.live import Call, TimedStage, run_live
from benchmarks.replays import Run, run, summarise
from benchmarks.simulation import EngineModel, Overheads, Request
from benchmarks.trace import Arrival
from pipelines.catalog import ModelSpec
from pipelines.contracts import TextConditioning
from pipelines.engine.cost import CostModel, CostSurface, fit
from pipelines.engine.engine import Engine
from pipelines.engine.policies import Policy
from pipelines.engine.stepper import Stepper

TOLERANCE = 0.1
"""By how much a simulated mean latency may be off."""
MAX_TOKENS = 16_384
MAX_WORKS = 32
CHECKPOINT_EVERY = 5

Conditionings = Mapping[str, TextConditioning]
Encode = Callable[[Sequence[Arrival]], Conditionings]


class Match(NamedTuple):
    """One load, live and simulated; `times` are those that the simulated engine had."""

    live: Run
    simulated: Run
    times: EngineTimes

    @property
    def errors(self) -> Mapping[str, float]:
        """|simulated / live - 1| of mean and 95th percentile; of the deadlines the difference."""
        live, simulated = self.live.summary, self.simulated.summary
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
        simulated = run(requests, self._model(times), self._policy, replicas=1, seed=0)
        summary = summarise(latencies, [request.deadline_s for request in requests])
        return Match(
            Run(summary, _utilisation(live_calls, arrivals), len(requests)), simulated, times
        )

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
