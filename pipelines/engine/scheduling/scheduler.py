"""Which works step next. Pure: no torch, no threads, and time comes in as an argument.

Every plan starts from nothing, so any work can be preempted after any step, for the price of
keeping its latents. A tick is filled in the policy's order up to the knee of the cost surface,
smaller works of later requests filling the gap that a larger one leaves.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from operator import attrgetter

from pipelines.cuts import Cut
from pipelines.engine.costs.surface import EMPTY, CostSurface
from pipelines.engine.scheduling.ageing import Ageing
from pipelines.engine.scheduling.fairness import Tenants
from pipelines.engine.scheduling.filling import fill, give_way
from pipelines.engine.scheduling.group import MARGIN, Group, fewest, unbegun
from pipelines.engine.scheduling.policies import Order, Policy, ordered
from pipelines.engine.scheduling.pricing import Pricing
from pipelines.engine.scheduling.promise import Promise, least_s, promise_feasible
from pipelines.engine.scheduling.residents import ResidentSet
from pipelines.engine.scheduling.table import Table
from pipelines.engine.scheduling.work import Tick, Work, load_of

_GROUPS_PER_PLAN_KEPT = 128
"""When nothing new has come, an order is kept for as many ticks as there are that many requests in
it: planning stays cheap where it would take longest, and where a tick matters least."""


class Scheduler:
    """Plans ticks over the works that it was given.

    `max_tokens` and `max_works` bound one tick, `max_bytes` the memory of all trajectories that
    are kept. A work that is larger than a bound by itself must not be added: see `fits`.
    """

    def __init__(
        self,
        *,
        cost: CostSurface,
        policy: Policy = "edf",
        max_tokens: int,
        max_works: int,
        max_bytes: int | None = None,
    ) -> None:
        if max_tokens < 1 or max_works < 1:
            raise ValueError("max_tokens and max_works must be at least 1")
        self._pricing = Pricing(
            surface=cost, max_tokens=max_tokens, max_works=max_works, max_bytes=max_bytes
        )
        self._policy: Policy = policy
        self._residents = ResidentSet(max_bytes)
        self._works: dict[str, Work] = {}
        self._groups: dict[str, Group] = {}
        self._by_deadline: list[Group] = []
        self._table = Table()
        self._tenants = Tenants()
        self._ageing = Ageing()
        self._load = EMPTY
        self._busy_until = -math.inf
        self._kept: Order | None = None
        self._plans_kept = 0

    def __len__(self) -> int:
        return len(self._works)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def cost(self) -> CostSurface:
        """The cost surface in force; set it when a better one is known."""
        return self._pricing.surface

    @cost.setter
    def cost(self, surface: CostSurface) -> None:
        self._pricing = replace(self._pricing, surface=surface)
        self._kept = None
        for group in self._groups.values():
            group.price(self._pricing)
            self._table.update(group)

    def configure(self, policy: Policy, max_works: int) -> None:
        """Plan by another policy and bound from now on. Raises ValueError for less than a work."""
        if max_works < 1:
            raise ValueError("max_works must be at least 1")
        self._policy = policy
        self._pricing = replace(self._pricing, max_works=max_works)
        self.cost = self._pricing.surface

    @property
    def queued_s(self) -> float:
        """Seconds of the engine that all works still need."""
        return sum(group.cost for group in self._groups.values())

    @property
    def capacity(self) -> str:
        """The bounds of `fits`, in words."""
        return f"{self._pricing.max_tokens} tokens{self._residents.capacity}"

    def fits(self, work: Work) -> bool:
        """Whether `work` can ever run within the bounds of a tick and of memory."""
        return work.tokens <= self._pricing.max_tokens and self._residents.can_hold(work)

    def add(self, work: Work) -> None:
        """Take a work on. Raises ValueError if its id is already known, or it can never fit."""
        if work.id in self._works:
            raise ValueError(f"work {work.id!r} is already scheduled")
        if not self.fits(work):
            raise ValueError(f"work {work.id!r} can never fit")
        self._works[work.id] = work
        self._load = self._load.plus(work.load)
        group = self._groups.get(work.group)
        if group is None:
            group = self._groups[work.group] = Group(work)
            insort(self._by_deadline, group, key=_deadline)
            self._tenants.joined(group)
            self._table.join(group)
        group.add(work, self._pricing)
        self._table.update(group)
        self._kept = None

    def cancel(self, work_id: str) -> bool:
        """Forget a work; False if it is not known (any more)."""
        work = self._works.pop(work_id, None)
        if work is None:
            return False
        self._residents.remove(work)
        self._load = self._load.minus(work.load)
        group = self._groups[work.group]
        group.remove(work_id)
        if group.works:
            self._table.update(group)
            return True
        del self._groups[group.id]
        self._by_deadline.remove(group)
        self._tenants.left(group)
        self._table.leave(group)
        return True

    def keep(self, group_id: str) -> None:
        """Let each image of a request end with its next step, but not with its first, where its
        schedule can be cut; what is asked again, or of a request that is not here, does nothing."""
        group = self._groups.get(group_id)
        if group is None:
            return
        for work in group:
            work.is_kept = work.can_cut
        group.refresh()
        self._table.update(group)
        self._kept = None

    def plan(self, now: float) -> Tick | None:
        """The next tick, or None when there is nothing to do."""
        if not self._works:
            return None
        order = self._present_order(now)
        oldest = self._ageing.first(order, self._tick_s())
        first = [] if oldest is None else [oldest]
        rest = (group for group in order.groups if group is not oldest)
        chosen = fill(chain(first, rest), self._pricing, self._residents, now)
        if order.promised_slack_s < self._plans_kept * self.cost.knee:
            chosen = give_way(order.groups, chosen, self._pricing, self._residents, now)
        load = load_of(chosen)
        shares = {} if oldest is None else oldest.step_s
        given_s = sum(shares[work.id] for work in chosen if work.id in shares)
        seconds = self.cost.seconds(load)
        self._ageing.account(seconds, given_s)
        self._busy_until = now + seconds
        return Tick(
            work_ids=tuple(work.id for work in chosen),
            load=load,
            parked=self._residents.make_room(chosen, order.groups),
            cuts=tuple(self._cut(chosen, order)),
        )

    def advance(self, tick: Tick, now: float) -> tuple[Work, ...]:
        """Record that `tick` ran; returns the works that it finished and forgets them.

        Works of the tick that were cancelled meanwhile are passed over.
        """
        self._busy_until = now
        finished: list[Work] = []
        stepped: dict[str, Group] = {}
        for work_id in tick.work_ids:
            work = self._works.get(work_id)
            if work is None:
                continue
            work.steps_done += 1
            stepped[work.group] = self._groups[work.group]
            if work.is_done:
                finished.append(work)
        for group in stepped.values():
            group.refresh()
            self._table.update(group)
        for work in finished:
            self.cancel(work.id)
        return tuple(finished)

    def has_promised(self, group: str) -> bool:
        """Whether a request's deadline was promised when its first image came."""
        return group in self._groups and self._groups[group].is_promised

    def promise(self, work: Work, now: float, *, num_images: int = 1) -> Promise:
        """What could be promised to `work` if it were added now: see `Promise`.

        With `num_images`, to it and its siblings that are still to come, all alike.
        """
        newcomer = self._if_added(work, num_images)
        joining = None if newcomer.id in self._groups else newcomer
        groups = [newcomer if each.id == newcomer.id else each for each in self._by_deadline]
        if joining is not None:
            insort(groups, joining, key=_deadline)
        load = self._load
        for _ in range(num_images):
            load = load.plus(work.load)
        tick_s = self._pricing.tick_s(load, len(self._works) + num_images)
        begins = max(now, self._busy_until) + max(group.tick_s for group in groups)
        front, behind = self._tenants.divide(groups, joining)
        if self._policy == "edf":
            is_behind = newcomer in behind
            rivals = [each for each in (behind if is_behind else front) if each is not newcomer]
            wait_s = sum(group.cost for group in front) if is_behind else 0.0
            is_kept, finish = promise_feasible(
                newcomer, rivals, self._table.columns(rivals), begins + wait_s, tick_s=tick_s
            )
        else:
            order = ordered(self._policy, front, behind, self._table, now, tick_s)
            finish = begins + MARGIN * order.seconds_until(newcomer, tick_s)
            is_kept = finish <= newcomer.deadline
        return Promise(is_kept, finish - now, least_s(newcomer))

    def _if_added(self, work: Work, num_images: int) -> Group:
        """The work's request as it would be with the work and its siblings to come, all alike.

        A new one is not promised yet: it must not displace its like.
        """
        present = self._groups.get(work.group)
        group = Group(work) if present is None else present.detached()
        for index in range(num_images):
            group.add(replace(work, id=f"{work.id}#{index}"), self._pricing)
        if present is None:
            group.is_promised = False
        return group

    def surplus(self, keep_s: float, now: float) -> list[Work]:
        """Works that have done no step, and without which `keep_s` seconds of work would still be
        here, the last first."""
        return unbegun(reversed(self._present(now).groups), self.queued_s - keep_s)

    def _tick_s(self) -> float:
        """Seconds of a tick while the present works last."""
        return self._pricing.tick_s(self._load, len(self._works))

    def _present_order(self, now: float) -> Order:
        """The order of the last plans, as long as nothing came and it is not old.

        What has left since is empty in it, and passed over.
        """
        is_old = self._plans_kept > len(self._groups) // _GROUPS_PER_PLAN_KEPT
        if self._kept is None or is_old:
            self._kept, self._plans_kept = self._present(now), 0
        self._plans_kept += 1
        return self._kept

    def _present(self, now: float) -> Order:
        """All requests in the policy's order, as of now."""
        front, behind = self._tenants.divide(self._by_deadline)
        return ordered(self._policy, front, behind, self._table, now, self._tick_s())

    def _cut(self, chosen: Iterable[Work], order: Order) -> Iterator[tuple[str, Cut]]:
        """Shorten the works that are kept, and those whose request is on time only with fewer
        steps."""
        for work in chosen:
            planned = order.num_steps.get(work.group)
            if work.is_kept and work.steps_done == 0:
                continue  # nothing can be kept of it yet
            if planned is None and not work.is_kept:
                continue
            num_steps = fewest(work, planned or 0)
            if num_steps < work.num_steps:
                work.num_steps = num_steps
                yield work.id, Cut(work.steps_done, num_steps)


_deadline: Callable[[Group], float] = attrgetter("deadline")
