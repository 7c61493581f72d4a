"""The real engine over a real stage in this process, with arrivals in real time (an open loop).

Nothing else of the application takes part: the simulator, which this is compared with, does not
know it either. Texts are encoded before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Literal, NamedTuple, TypeVar

from benchmarks.trace import Arrival
from pipelines.catalog import ModelSpec
from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    EncodedPicture,
    LatentJob,
    Latents,
    SamplingParams,
    ServiceTerms,
    StepEvent,
)
from pipelines.engine.costs.surface import EMPTY, Load
from pipelines.engine.engine import Engine
from pipelines.engine.stepper import Stepper

_GIVE_UP_S = 300.0
"""After the last arrival."""

Result = TypeVar("Result")


class Call(NamedTuple):
    """The engine called `name` of its stage, from `began` to `ended`; `load` is that of a tick."""

    name: Literal["admit", "tick", "checkpoint", "finish"]
    began: float
    ended: float
    load: Load = EMPTY

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class TimedStage:
    """Passes everything on to a stage, and keeps when each call that does work began and ended."""

    def __init__(self, stage: Stepper[Any]) -> None:
        self._stage = stage
        self._segments: dict[int, tuple[int, ...]] = {}
        self.calls: list[Call] = []
        self.segments = stage.segments
        self.forwards = stage.forwards
        self.trajectory_bytes = stage.trajectory_bytes
        self.can_cut = stage.can_cut
        self.cut = stage.cut

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Any:
        work = (job, positive, negative, start, pictures)
        trajectory = self._timed("admit", lambda: self._stage.admit(*work))
        self._segments[id(trajectory)] = self._stage.segments(job, positive, negative)
        return trajectory

    def tick(self, trajectories: Sequence[Any]) -> None:
        load = Load.of(length for item in trajectories for length in self._segments[id(item)])
        self._timed("tick", lambda: self._stage.tick(trajectories), load)

    def checkpoint(self, trajectory: Any) -> Checkpoint:
        return self._timed("checkpoint", lambda: self._stage.checkpoint(trajectory))

    def finish(self, trajectory: Any) -> Latents:
        del self._segments[id(trajectory)]
        return self._timed("finish", lambda: self._stage.finish(trajectory))

    def _timed(
        self,
        name: Literal["admit", "tick", "checkpoint", "finish"],
        call: Callable[[], Result],
        load: Load = EMPTY,
    ) -> Result:
        began = time.perf_counter()
        result = call()
        self.calls.append(Call(name, began, time.perf_counter(), load))
        return result


def run_live(
    engine: Engine,
    arrivals: Sequence[Arrival],
    conditionings: Mapping[str, Conditioning],
    spec: ModelSpec,
) -> list[float]:
    """The latency in seconds of each request, from when it was due to its last image.

    `engine` has been started. Steps and checkpoints are listened to, as in the application. Raises
    what a request failed with, TimeoutError if one is not done minutes after the last arrival.
    """
    began = time.monotonic()
    running: list[_Running] = []
    for number, arrival in enumerate(arrivals):
        time.sleep(max(0.0, began + arrival.at_s - time.monotonic()))
        late_s = time.monotonic() - began - arrival.at_s
        for job in _jobs(number, arrival, spec, late_s=late_s):
            late_s = time.monotonic() - began - arrival.at_s
            future = engine.submit(
                job, conditionings[arrival.prompt], on_step=_ignore, on_checkpoint=_ignore
            )
            running.append(_Running(number, late_s, future))
    if wait([item.future for item in running], timeout=_GIVE_UP_S).not_done:
        raise TimeoutError(f"not all images were done {_GIVE_UP_S:g} s after the last arrival")
    latencies = [0.0] * len(arrivals)
    for number, late_s, future in running:
        timings = future.result().timings
        latency = late_s + timings["denoise_wait"] + timings["denoise"]
        latencies[number] = max(latencies[number], latency)
    return latencies


class _Running(NamedTuple):
    """An image of request `number`, submitted `late_s` after it was due."""

    number: int
    late_s: float
    future: Future[Latents]


def _ignore(_: StepEvent | Checkpoint) -> None:
    pass


def _jobs(number: int, arrival: Arrival, spec: ModelSpec, *, late_s: float) -> list[LatentJob]:
    terms = ServiceTerms(tenant=arrival.tenant, deadline=time.time() + arrival.deadline_s - late_s)
    return [
        LatentJob(
            work_id=f"{number}-{image}",
            group=str(number),
            sampling=SamplingParams(
                height=arrival.height,
                width=arrival.width,
                num_inference_steps=arrival.steps,
                guidance_scale=spec.guidance_scale,
                seed=arrival.seed + image,
            ),
            terms=terms,
        )
        for image in range(arrival.n)
    ]
