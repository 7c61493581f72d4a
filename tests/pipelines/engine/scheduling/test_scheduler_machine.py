"""The scheduler under anything that may happen to it, in any order."""

from __future__ import annotations

from typing import get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.work import Tick, Work
from tests.pipelines.engine.works import scheduler, work

MAX_TOKENS, MAX_WORKS, MAX_BYTES = 200, 5, 100
LEAST_STEPS = 2


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever was added and not cancelled is done in the end, within bounds all the way."""

    works = Bundle("works")

    @initialize(policy=st.sampled_from(get_args(Policy)))
    def begin(self, policy: Policy) -> None:
        self.scheduler = scheduler(
            policy, max_tokens=MAX_TOKENS, max_works=MAX_WORKS, max_bytes=MAX_BYTES
        )
        self.now = 0.0
        self.present: dict[str, Work] = {}
        self.asked_steps: dict[str, int] = {}
        self.stepped: dict[str, int] = {}
        self.resident: set[str] = set()
        self.planned: Tick | None = None
        self.made = 0

    @rule(
        target=works,
        tokens=st.sampled_from([5, 20, 60, 150]),
        steps=st.integers(1, 6),
        images=st.integers(1, 3),
        due_s=st.none() | st.floats(0.0, 40.0),
        tenant=st.sampled_from("ab"),
        priority=st.integers(0, 2),
        may_be_cut=st.booleans(),
        num_bytes=st.sampled_from([10, 40, 100]),
        refuses=st.booleans(),
    )
    def add(
        self,
        tokens: int,
        steps: int,
        images: int,
        due_s: float | None,
        tenant: str,
        priority: int,
        may_be_cut: bool,
        num_bytes: int,
        refuses: bool,
    ):
        self.made += 1
        names: list[str] = []
        for image in range(images):
            each = work(
                f"{self.made}/{image}",
                group=str(self.made),
                tokens=tokens,
                steps=steps,
                arrival=self.now,
                deadline=None if due_s is None else self.now + due_s,
                tenant=tenant,
                priority=priority,
                min_steps=LEAST_STEPS if may_be_cut else None,
                num_bytes=num_bytes,
                is_promised=refuses and due_s is not None,
            )
            if each.is_promised:
                before = (len(self.scheduler), self.scheduler.queued_s)
                promise = self.scheduler.promise(each, self.now)
                assert promise.earliest_s >= 0
                assert (len(self.scheduler), self.scheduler.queued_s) == before
                if not promise.is_kept:
                    break
            self.scheduler.add(each)
            self.present[each.id] = each
            self.asked_steps[each.id] = steps
            names.append(each.id)
        return multiple(*names)

    @rule(name=consumes(works))
    def cancel(self, name: str) -> None:
        assert self.scheduler.cancel(name) == (name in self.present)
        self.present.pop(name, None)
        self.resident.discard(name)

    @rule(tenths=st.integers(0, 100))
    def wait(self, tenths: int) -> None:
        self.now += tenths / 10

    @rule(per_token=st.floats(0.001, 0.1), base=st.floats(0.0, 1.0))
    def reprice(self, per_token: float, base: float) -> None:
        self.scheduler.cost = CostSurface(base=base, per_token=per_token)

    @rule()
    def plan(self) -> None:
        self.finish_tick()
        tick = self.scheduler.plan(self.now)
        assert (tick is None) == (not self.present)
        if tick is None:
            return
        self.check(tick)
        self.resident -= set(tick.parked)
        self.resident |= set(tick.work_ids)
        self.planned = tick

    @rule()
    def finish_tick(self) -> None:
        tick, self.planned = self.planned, None
        if tick is None:
            return
        self.now += self.scheduler.cost.seconds(tick.load)
        for each in self.scheduler.advance(tick, self.now):
            assert each.is_done
            assert self.present.pop(each.id) is each
            self.resident.discard(each.id)
        for name in tick.work_ids:
            self.stepped[name] = self.stepped.get(name, 0) + 1

    def check(self, tick: Tick) -> None:
        """What holds of every tick."""
        names = tick.work_ids
        assert 1 <= len(names) <= MAX_WORKS
        assert len(set(names)) == len(names)
        assert set(names) <= set(self.present)
        works = [self.present[name] for name in names]
        assert tick.load.tokens == sum(each.tokens for each in works) <= MAX_TOKENS
        assert tick.load.segments == len(works)
        surface = self.scheduler.cost
        assert len(works) == 1 or surface.seconds(tick.load) <= surface.knee
        assert not set(tick.parked) & set(names)
        assert set(tick.parked) <= self.resident
        for name, cut in tick.cuts:
            each = self.present[name]
            assert each.min_steps is not None
            assert cut.step == each.steps_done < cut.num_steps == each.num_steps
            assert LEAST_STEPS <= cut.num_steps < self.asked_steps[name]

    @invariant()
    def memory_is_bounded(self) -> None:
        held = [self.present[name] for name in self.resident if name in self.present]
        assert sum(each.num_bytes for each in held) <= MAX_BYTES
        assert {each.id for each in self.present.values() if each.is_resident} == self.resident

    @invariant()
    def the_books_are_right(self) -> None:
        assert len(self.scheduler) == len(self.present)
        assert (self.scheduler.queued_s > 0) == bool(self.present)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        left = sum(each.steps_left for each in self.present.values())
        self.finish_tick()
        for _ in range(left):
            self.plan()
            self.finish_tick()
        assert not self.present, "every work ends, and no tick is in vain"
        assert self.scheduler.plan(self.now) is None
        assert self.scheduler.queued_s == 0


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(stateful_step_count=40)
