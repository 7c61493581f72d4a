"""What an engine does, as metrics: counted in its thread at once, told once a second.

The engine knows no Ray, and its thread must not wait: a tick leaves a small tuple behind, and
whoever publishes makes metrics of it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from deployments.metrics import declared as metrics
from deployments.metrics.instruments import Growth, tenant_label
from deployments.options.stages import DenoiserOptions
from pipelines.engine.costs.surface import EMPTY, CostSurface, Load
from pipelines.engine.observe.stats import EngineStats, RanTick

_TICKS_KEPT = 4096
"""Between two times of publishing: many more than there are in a second."""

_RECENT = 10
"""Times of publishing that count as recent: there is one a second."""


class TickSums(NamedTuple):
    """So many ticks, and the tokens and seconds of all of them."""

    ticks: int
    tokens: int
    seconds: float

    @property
    def mean_tokens(self) -> float | None:
        """Of a tick; None without any."""
        return self.tokens / self.ticks if self.ticks else None

    @property
    def mean_s(self) -> float | None:
        """Of a tick; None without any."""
        return self.seconds / self.ticks if self.ticks else None


class EngineMetrics:
    """Of one engine; `length` are the tokens of an image of the model's own size."""

    def __init__(self, options: DenoiserOptions, length: int) -> None:
        self._device = options.resolved_device
        self._devices = options.ranks * (options.num_gpus or 1.0)
        self._length = length
        self._ticks: deque[RanTick] = deque(maxlen=_TICKS_KEPT)
        self._growth, self._saved = Growth(), Growth()
        self._published: deque[TickSums] = deque(maxlen=_RECENT)

    @property
    def recent(self) -> TickSums:
        """The ticks of the last seconds. For the thread that publishes."""
        lately = tuple(self._published)
        return TickSums(
            ticks=sum(each.ticks for each in lately),
            tokens=sum(each.tokens for each in lately),
            seconds=sum(each.seconds for each in lately),
        )

    def knee_tokens(self, cost: CostSurface) -> int:
        """The knee of `cost`, for images of the model's own size."""
        return cost.knee_tokens(self._length)

    def ticked(self, tick: RanTick) -> None:
        """Keep a tick until the next `publish`. Called by the engine's thread."""
        self._ticks.append(tick)

    def publish(self, stats: EngineStats) -> None:
        """Tell what was done since the last time. For one thread."""
        grown = self._growth.of(
            {
                "ticks": stats.ticks,
                "steps": stats.steps,
                "preempted": stats.preempted,
                "cancelled": stats.cancelled,
            }
        )
        metrics.TICKS.add(grown["ticks"])
        metrics.STEPS.add(grown["steps"])
        metrics.PREEMPTIONS.add(grown["preempted"])
        metrics.CANCELLED_IMAGES.add(grown["cancelled"])
        for reason, steps in self._saved.of(stats.saved_steps).items():
            metrics.SAVED_STEPS.add(steps, reason=reason)
        metrics.WORKS.set(stats.works)
        metrics.KNEE_SECONDS.set(stats.cost.knee)
        metrics.KNEE_TOKENS.set(self.knee_tokens(stats.cost))
        self._publish_ticks(stats.cost)

    def _publish_ticks(self, cost: CostSurface) -> None:
        seconds: defaultdict[str, float] = defaultdict(float)
        tokens, ticks_s, ticks = 0, 0.0, len(self._ticks)
        for _ in range(ticks):
            tick = self._ticks.popleft()
            total = _sum(load for _, load in tick.works)
            metrics.TICK_SECONDS.observe(tick.seconds)
            metrics.TICK_TOKENS.observe(total.tokens)
            metrics.TICK_SEGMENTS.observe(total.segments)
            tokens += total.tokens
            ticks_s += tick.seconds
            # What a tick costs beside its works is shared as these are.
            whole = cost.marginal(total)
            for tenant, load in tick.works:
                share = cost.marginal(load) / whole if whole else 1 / len(tick.works)
                seconds[tenant_label(tenant)] += share * tick.seconds
        self._published.append(TickSums(ticks, tokens, ticks_s))
        metrics.TOKENS.add(tokens)
        for tenant, taken in seconds.items():
            metrics.DEVICE_SECONDS.add(self._devices * taken, tenant=tenant, device=self._device)


def _sum(loads: Iterable[Load]) -> Load:
    """As `plus` over all of them, in a quarter of the time."""
    columns = tuple(zip(*loads, strict=True))
    return Load(*map(sum, columns)) if columns else EMPTY
