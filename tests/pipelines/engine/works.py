"""Works, requests and simulated runs for tests of the scheduler: no model, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.feasible import Feasible, feasible_set
from pipelines.engine.scheduling.group import Group
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.pricing import Pricing
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.table import Table
from pipelines.engine.scheduling.work import Tick, Work

SURFACE = CostSurface(base=0.15, per_token=0.01)
"""Knee at one second, or at 85 tokens."""
ONE_AT_A_TIME = CostSurface(base=0.0, per_token=0.1)
"""Nothing is won by packing: a step takes 0.1 s a token, and the knee is one work."""
PRICING = Pricing(surface=ONE_AT_A_TIME, max_tokens=10_000, max_works=100)


def work(
    name: str,
    *,
    tokens: int = 10,
    steps: int = 2,
    group: str | None = None,
    arrival: float = 0.0,
    deadline: float | None = None,
    priority: int = 0,
    tenant: str = "",
    min_steps: int | None = None,
    num_bytes: int = 0,
    is_promised: bool = False,
) -> Work:
    return Work(
        id=name,
        group=name if group is None else group,
        segments=(tokens,),
        num_steps=steps,
        arrival=arrival,
        deadline=deadline,
        priority=priority,
        tenant=tenant,
        min_steps=min_steps,
        num_bytes=num_bytes,
        is_promised=is_promised,
    )


def scheduler(
    policy: Policy = "edf",
    *,
    cost: CostSurface = SURFACE,
    max_tokens: int = 10_000,
    max_works: int = 100,
    max_bytes: int | None = None,
    works: Iterable[Work] = (),
) -> Scheduler:
    made = Scheduler(
        cost=cost, policy=policy, max_tokens=max_tokens, max_works=max_works, max_bytes=max_bytes
    )
    for each in works:
        made.add(each)
    return made


def groups_of(works: Sequence[Work], pricing: Pricing = PRICING) -> list[Group]:
    """The requests of some works, by deadline."""
    groups: dict[str, Group] = {}
    for each in works:
        groups.setdefault(each.group, Group(each)).add(each, pricing)
    return sorted(groups.values(), key=lambda group: group.deadline)


def divide(groups: Sequence[Group], now: float = 0.0, *, tick_s: float = 0.0) -> Feasible:
    """The feasible set of requests given by deadline."""
    table = Table()
    for group in groups:
        table.join(group)
        table.update(group)
    return feasible_set(groups, table.columns(groups), now, tick_s=tick_s)


@dataclass
class Run:
    """A simulated run: when each work was done, and every tick with the time that it began at."""

    scheduler: Scheduler
    now: float = 0.0
    done: dict[str, float] = field(default_factory=dict)
    ticks: list[tuple[float, Tick]] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    """Of those that came by `add`."""

    def add(self, each: Work) -> None:
        """Add a work to the scheduler."""
        self.scheduler.add(each)
        self.waiting.add(each.id)

    def tick(self) -> Tick | None:
        """One tick that takes as long as the scheduler's surface says."""
        tick = self.scheduler.plan(self.now)
        if tick is None:
            return None
        self.ticks.append((self.now, tick))
        self.now += self.scheduler.cost.seconds(tick.load)
        for each in self.scheduler.advance(tick, self.now):
            self.done[each.id] = self.now
            self.waiting.discard(each.id)
        return tick

    def until_idle(self, *, before_tick: Callable[[Run], None] | None = None) -> Run:
        """Tick until nothing is left; `before_tick` may add and cancel."""
        while True:
            if before_tick is not None:
                before_tick(self)
            if self.tick() is None:
                return self

    def first_tick_of(self, name: str) -> int:
        """The index of the first tick that the work was in."""
        return next(i for i, (_, tick) in enumerate(self.ticks) if name in tick.work_ids)
