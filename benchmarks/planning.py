"""What a plan costs: `Scheduler.plan` with 10, 100 and 1,000 waiting works, under each policy.

    python -m benchmarks.planning [--ticks 300] [--save]

Needs no model: simulated ticks over a made-up cost surface. Before every plan one request comes and
another is cancelled, so that no order is kept from the tick before; what finishes is replaced, so
that as many always wait. Times are those of the thread on its processor: other programs of the
machine do not count. The mixes of requests:

    on_time    deadlines that all can be kept
    late       many more requests than deadlines leave time for
    shortened  as late, and each may be cut to half of its steps
    priorities as late, of all priorities that a request may have
    promised   as priorities, and a third were promised their deadlines
    flooding   one tenant with nine tenths of the requests, twenty others with the rest
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Sequence
from itertools import product
from statistics import median, quantiles
from typing import Literal, NamedTuple, get_args

from benchmarks.report import device_name, print_json, print_table, save_json
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Work
from serve.settings.sections import MAX_PRIORITY, MIN_PRIORITY

Mix = Literal["on_time", "late", "shortened", "priorities", "promised", "flooding"]

COUNTS = (10, 100, 1000)
SURFACE = CostSurface(base=0.004, per_token=1e-5, per_square=1e-10, per_segment=1e-4)
_SEGMENT_TOKENS = (80, 272, 1040, 4112)
_STEPS = (4, 20, 28, 50)
_WARM_UP_TICKS = 20


class PlanTimes(NamedTuple):
    """Milliseconds of a plan."""

    median: float
    p99: float
    max: float


class Simulation:
    """Keeps `count` works waiting, on a clock that only ticks move."""

    def __init__(self, policy: Policy, mix: Mix, count: int, *, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._mix: Mix = mix
        self._count = count
        self._waiting: list[str] = []
        self._num_made = 0
        self._now = 0.0
        self.scheduler = Scheduler(cost=SURFACE, policy=policy, max_tokens=2**20, max_works=64)
        self._fill_up()

    def tick(self) -> float:
        """One tick with a request less and a new one; the seconds that its plan took."""
        self.scheduler.cancel(self._waiting.pop(self._random.randrange(self._count)))
        self._fill_up()
        began = time.thread_time()
        tick = self.scheduler.plan(self._now)
        took = time.thread_time() - began
        assert tick is not None
        self._now += SURFACE.seconds(tick.load)
        for work in self.scheduler.advance(tick, self._now):
            self._waiting.remove(work.id)
        self._fill_up()
        return took

    def _fill_up(self) -> None:
        while len(self._waiting) < self._count:
            work = self._draw_work()
            self.scheduler.add(work)
            self._waiting.append(work.id)

    def _draw_work(self) -> Work:
        draw, mix = self._random, self._mix
        steps = draw.choice(_STEPS)
        segments = (draw.choice(_SEGMENT_TOKENS),) * draw.choice((1, 1, 1, 2))
        alone_s = steps * SURFACE.seconds(Load.of(segments))
        # The mean work needs about half a second: what all of them need, or a fifth of it.
        spread_s = self._count * (2.0 if mix in ("on_time", "flooding") else 0.1)
        has_priority = mix in ("priorities", "promised")
        is_crowd = mix == "flooding" and draw.random() < 0.9
        self._num_made += 1
        return Work(
            id=str(self._num_made),
            group=str(self._num_made),
            segments=segments,
            num_steps=steps,
            min_steps=steps // 2 if mix == "shortened" else None,
            arrival=self._now,
            deadline=self._now + 2 * alone_s + spread_s * draw.random(),
            priority=draw.randint(MIN_PRIORITY, MAX_PRIORITY) if has_priority else 0,
            is_promised=mix == "promised" and draw.random() < 1 / 3,
            tenant="crowd" if is_crowd else str(draw.randrange(20)) if mix == "flooding" else "",
        )


def measure(policy: Policy, mix: Mix, count: int, *, ticks: int) -> PlanTimes:
    """Plan `ticks` times (at least two) with `count` works waiting."""
    simulation = Simulation(policy, mix, count)
    for _ in range(_WARM_UP_TICKS):
        simulation.tick()
    gc.collect()
    seconds = [simulation.tick() for _ in range(ticks)]
    return _times(seconds)


def _times(seconds: Sequence[float]) -> PlanTimes:
    p99 = quantiles(seconds, n=100, method="inclusive")[-1]
    return PlanTimes(*(round(1000 * value, 4) for value in (median(seconds), p99, max(seconds))))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ticks", type=int, default=300)
    parser.add_argument("--save", action="store_true", help="write the values to results/")
    arguments = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for policy, mix, count in product(get_args(Policy), get_args(Mix), COUNTS):
        times = measure(policy, mix, count, ticks=arguments.ticks)
        rows.append((policy, mix, count, *(f"{value:.3f}" for value in times)))
        values.setdefault(policy, {}).setdefault(mix, {})[str(count)] = times._asdict()
    print_table("Milliseconds of a plan", ["policy", "mix", "works", "median", "p99", "max"], rows)
    if arguments.save:
        save_json("planning", values, device=device_name())
    print_json(values)


if __name__ == "__main__":
    main()
