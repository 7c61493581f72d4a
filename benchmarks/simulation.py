"""The scheduler under a simulated clock: the engine's loop and Serve's router, without a model.

The scheduler is the one that serves. Simulated are

- the stage: a tick takes what the cost surface says;
- the engine around it: constant seconds per tick, admission, checkpoint and finished image;
- a machine whose speed drifts, where the model has a `Pace`;
- the router, on one caller: ours, by what replicas report every second and what was sent since; or
  Serve's power of two choices, where an image goes to the one of two replicas drawn at random that
  has fewer under way. Serve's counts are exact and at once here, and may be some milliseconds old
  in truth.

Not simulated: the stages around the denoiser, and replicas that come, go or differ in speed.
Pure: no torch, no clock; everything follows from the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from benchmarks.routers import ROUTERS, RouterName
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Tick, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`num_images` equal images wanted `deadline_s` after `at_s`, both in seconds.

    `segments` are the tokens of each segment of one step of one image.
    """

    at_s: float
    deadline_s: float
    tenant: str
    num_images: int
    segments: tuple[int, ...]
    num_steps: int

    def engine_s(self, surface: CostSurface) -> float:
        """Seconds of one engine that the request takes in ticks packed to the knee."""
        return self.num_images * self.num_steps * surface.share(Load.of(self.segments))


class Overheads(NamedTuple):
    """Seconds that an engine spends beside its ticks; zero is an engine that is all model."""

    per_tick: float = 0.0
    per_admission: float = 0.0
    per_checkpoint: float = 0.0
    per_finish: float = 0.0


class Pace(NamedTuple):
    """How many times as long as usual a machine takes, one factor per `window_s` from time 0 on."""

    window_s: float
    factors: tuple[float, ...]

    def at(self, now: float) -> float:
        """The factor at `now` seconds; the last one holds on."""
        window = max(0, int(now / self.window_s))
        return self.factors[min(window, len(self.factors) - 1)]


STEADY = Pace(1.0, (1.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """All that decides how long an engine takes."""

    cost: CostSurface
    overheads: Overheads
    max_tokens: int
    max_works: int
    checkpoint_every: int = 5
    pace: Pace = STEADY
    """Of the machine; the scheduler does not know it."""

    def scheduler(self, policy: Policy) -> Scheduler:
        """A scheduler as the engine has it."""
        return Scheduler(
            cost=self.cost, policy=policy, max_tokens=self.max_tokens, max_works=self.max_works
        )


class Finished(NamedTuple):
    """An image was done at `at` seconds."""

    work: Work
    at: float


@dataclass(slots=True, eq=False)
class Replica:
    """One engine: a running tick at most, and what waits for the next."""

    model: EngineModel
    scheduler: Scheduler
    busy: list[tuple[float, float]] = field(default_factory=list)
    """(from, to) of every time that it did something."""
    ticks: int = 0
    _works: dict[str, Work] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _running: Tick | None = None

    @property
    def is_idle(self) -> bool:
        return self._running is None

    @property
    def ongoing(self) -> int:
        """Images here that are not done: what the router compares."""
        return len(self.scheduler)

    def add(self, work: Work) -> None:
        self._works[work.id] = work
        self.scheduler.add(work)

    def begin(self, now: float) -> float | None:
        """Plan and start a tick; when it ends, or None if there is nothing to do."""
        self._running = tick = self.scheduler.plan(now)
        if tick is None:
            return None
        model, overheads = self.model, self.model.overheads
        newcomers = [work_id for work_id in tick.work_ids if work_id not in self._begun]
        self._begun.update(newcomers)
        seconds = overheads.per_tick + len(newcomers) * overheads.per_admission
        seconds += model.cost.seconds(tick.load)
        ends = now + model.pace.at(now) * seconds
        self.busy.append((now, ends))
        self.ticks += 1
        return ends

    def end(self, now: float) -> tuple[list[Finished], float]:
        """End the tick: the images it finished, and when the engine has seen to them."""
        assert self._running is not None
        tick, self._running = self._running, None
        done = {work.id for work in self.scheduler.advance(tick, now)}
        overheads, every = self.model.overheads, self.model.checkpoint_every
        finished: list[Finished] = []
        at = now
        for work_id in tick.work_ids:
            if work_id in done:
                at += overheads.per_finish
                self._begun.discard(work_id)
                finished.append(Finished(self._works.pop(work_id), at))
            elif self._works[work_id].steps_done % every == 0:
                at += overheads.per_checkpoint
        self.busy.append((now, at))
        return finished, at


class Replay(NamedTuple):
    """What became of the requests, in their order."""

    latencies_s: list[float]
    met: list[bool]
    utilisation: float
    """Share of the replicas' time, from the first to the last arrival, in which they were busy."""
    ticks: int


def replay(
    requests: Sequence[Request],
    model: EngineModel,
    *,
    policy: Policy,
    replicas: int = 1,
    router: RouterName = "finish_first",
    seed: int = 0,
) -> Replay:
    """Serve `requests`, given by arrival, on `replicas` equal engines; `seed` is the router's."""
    pool = [Replica(model, model.scheduler(policy)) for _ in range(replicas)]
    ends: list[tuple[float, int]] = []
    finishes = [request.at_s for request in requests]
    choose = ROUTERS[router](pool, Random(seed))

    def run_until(time: float) -> None:
        while ends and ends[0][0] <= time:
            now, index = heappop(ends)
            finished, free = pool[index].end(now)
            for item in finished:
                number = int(item.work.group)
                finishes[number] = max(finishes[number], item.at)
            # What comes between `now` and `free` waits for one tick more: less than a millisecond.
            begin(index, free)

    def begin(index: int, now: float) -> None:
        if (end := pool[index].begin(now)) is not None:
            heappush(ends, (end, index))

    for number, request in enumerate(requests):
        run_until(request.at_s)
        chosen: set[int] = set()
        for work in _works(number, request):
            index = choose(work)
            pool[index].add(work)
            chosen.add(index)
        for index in sorted(chosen):
            if pool[index].is_idle:
                begin(index, request.at_s)
    run_until(float("inf"))
    latencies = [end - request.at_s for request, end in zip(requests, finishes, strict=True)]
    return Replay(
        latencies,
        [latency <= each.deadline_s for each, latency in zip(requests, latencies, strict=True)],
        _utilisation(pool, requests),
        sum(replica.ticks for replica in pool),
    )


def _works(number: int, request: Request) -> list[Work]:
    return [
        Work(
            id=f"{number}-{image}",
            group=str(number),
            segments=request.segments,
            num_steps=request.num_steps,
            arrival=request.at_s,
            tenant=request.tenant,
            deadline=request.at_s + request.deadline_s,
        )
        for image in range(request.num_images)
    ]


def _utilisation(pool: Sequence[Replica], requests: Sequence[Request]) -> float:
    first, last = requests[0].at_s, requests[-1].at_s
    if last <= first:
        return 1.0
    busy = sum(
        max(0.0, min(end, last) - max(begin, first))
        for replica in pool
        for begin, end in replica.busy
    )
    return busy / (len(pool) * (last - first))
