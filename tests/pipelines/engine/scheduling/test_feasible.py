"""Who can be on time: against trying all subsets, and the rules around Moore's algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.engine.scheduling.feasible import earliest_finish, most_steps, shortest_first
from pipelines.engine.scheduling.group import MARGIN, Group
from pipelines.engine.scheduling.work import Work
from tests.pipelines.engine.works import divide, groups_of, work
from tests.properties import examples

QUICK = settings(max_examples=examples(60))


def due(room: float) -> float:
    """The deadline that leaves `room` seconds, with the margin on top, and half a tick to spare."""
    return MARGIN * (room + 0.05)


def standing(group: Group) -> tuple[bool, int]:
    """Who is not given up for whom: a promise counts for more than any priority."""
    return group.is_promised, group.priority


def named(groups: list[Group], indices: list[int]) -> list[str]:
    return [groups[index].id for index in indices]


jobs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=7)
"""(tenths of a second that it takes, tenths of a second that it has)."""


def works_of(drawn: list[tuple[int, int]]) -> list[Work]:
    return [
        work(str(i), tokens=cost, steps=1, deadline=due(room / 10))
        for i, (cost, room) in enumerate(drawn)
    ]


def are_on_time(drawn: list[tuple[int, int]]) -> bool:
    """Whether all of these can be, one after the other by deadline."""
    total = 0
    for cost, room in sorted(drawn, key=lambda each: each[1]):
        total += cost
        if total > room:
            return False
    return True


@QUICK
@given(jobs)
def test_as_many_are_on_time_as_can_be(drawn: list[tuple[int, int]]) -> None:
    groups = groups_of(works_of(drawn))
    feasible = divide(groups)
    assert sorted(feasible.on_time + feasible.late) == list(range(len(groups)))
    assert are_on_time([drawn[int(groups[i].id)] for i in feasible.on_time])
    best = max(
        count
        for count in range(len(drawn) + 1)
        if any(are_on_time(list(some)) for some in combinations(drawn, count))
    )
    assert len(feasible.on_time) == best


standings = st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=7, max_size=7)
"""(whether it was promised, priority)."""


@QUICK
@given(jobs, standings)
@example([(1, 4), (1, 1), (1, 2), (4, 3)], [(False, 0), (False, 1), (True, 0), (True, 0)])
def test_those_on_time_are_so_whatever_the_priorities_and_promises(
    drawn: list[tuple[int, int]], standings: list[tuple[bool, int]]
) -> None:
    works = works_of(drawn)
    for each, (is_promised, priority) in zip(works, standings, strict=False):
        each.is_promised, each.priority = is_promised, priority
    groups = groups_of(works)
    feasible = divide(groups)
    total = 0.0
    for index in feasible.on_time:
        total += groups[index].cost
        assert total <= groups[index].deadline
    # No higher one is given up while a lower one with a later deadline, as costly, is kept.
    for late in feasible.late:
        for kept in feasible.on_time:
            if groups[kept].deadline >= groups[late].deadline:
                is_replaceable = groups[late].cost <= groups[kept].cost
                is_higher = standing(groups[late]) > standing(groups[kept])
                on_time_in_its_place = are_on_time(
                    [drawn[int(groups[i].id)] for i in {*feasible.on_time, late} - {kept}]
                )
                assert not (is_replaceable and is_higher and on_time_in_its_place)


def room(group: Group, deadline: float) -> float:
    """The seconds until `deadline` that `group` may fill: a promise may use its margin up."""
    return deadline if group.is_promised else deadline / MARGIN


def late_by_the_rule(groups: Sequence[Group]) -> set[str]:
    """Those late even alone, and those given up by Moore's algorithm over all levels at once; and
    once more without the highest of these, as others were given up for them in vain."""
    taken = [group for group in groups if group.cost <= room(group, group.deadline)]
    for_good = {group.id for group in groups if group not in taken}
    while given_up := given_up_at_once(taken):
        highest = max(map(standing, given_up))
        for_good |= {group.id for group in given_up if standing(group) == highest}
        taken = [group for group in taken if group.id not in for_good]
    return for_good


def given_up_at_once(groups: Sequence[Group]) -> list[Group]:
    """Whenever one would be late, the costliest of the lowest so far go, until it is not; if it
    goes itself, it takes nobody along."""
    kept: list[Group] = []
    given_up: list[Group] = []
    for newcomer in groups:
        before, kept = kept, [*kept, newcomer]
        gone: list[Group] = []
        while kept:
            # The latest of equals, as `min` returns the first.
            least = min(reversed(kept), key=lambda group: (*standing(group), -group.cost))
            if sum(group.cost for group in kept) <= room(least, newcomer.deadline):
                break
            if least is newcomer:
                kept, gone = before, [newcomer]
                break
            kept.remove(least)
            gone.append(least)
        given_up += gone
    return given_up


@QUICK
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 60), st.booleans(), st.integers(0, 3)),
        min_size=1,
        max_size=20,
    )
)
def test_level_by_level_the_same_are_given_up(drawn: list[tuple[int, int, bool, int]]) -> None:
    groups = groups_of(
        [
            # With its margin and without, a deadline is never just the sum of some costs.
            work(
                str(i),
                tokens=cost,
                steps=1,
                deadline=MARGIN * (tenths + 0.45) / 10,
                priority=priority,
                is_promised=is_promised,
            )
            for i, (cost, tenths, is_promised, priority) in enumerate(drawn)
        ]
    )
    assert set(named(groups, divide(groups).late)) == late_by_the_rule(groups)


def test_the_costliest_is_given_up() -> None:
    groups = groups_of(
        [
            work("short", tokens=3, steps=1, deadline=due(0.5)),
            work("long", tokens=9, steps=1, deadline=due(1.2)),
            work("last", tokens=5, steps=1, deadline=due(1.3)),
        ]
    )
    feasible = divide(groups)
    assert named(groups, feasible.on_time) == ["short", "last"]
    assert named(groups, feasible.late) == ["long"]
    assert feasible.cost.tolist() == pytest.approx([0.3, 0.5])
    assert feasible.slack.tolist() == pytest.approx([0.25, 0.55])


def test_the_lowest_priority_is_given_up_first_until_the_rest_is_on_time() -> None:
    works = [
        work("low", tokens=3, steps=1, deadline=due(0.5)),
        work("middle", tokens=2, steps=1, deadline=due(0.6), priority=1),
        work("high", tokens=8, steps=1, deadline=due(1.0), priority=2),
    ]
    groups = groups_of(works)
    assert named(groups, divide(groups).on_time) == ["middle", "high"]
    longer = groups_of([*works[:2], work("high", tokens=9, steps=1, deadline=due(1.0), priority=2)])
    assert named(longer, divide(longer).on_time) == ["high"]


def test_nobody_is_given_up_for_one_who_is_late_even_alone() -> None:
    many = [
        work(str(i), group="many", tokens=10, steps=1, deadline=due(1.0), priority=9)
        for i in range(4)
    ]
    groups = groups_of([work("low", tokens=5, steps=1, deadline=due(0.9)), *many])
    feasible = divide(groups)
    assert named(groups, feasible.on_time) == ["low"]
    assert named(groups, feasible.late) == ["many"]


def test_a_promise_outlives_its_margin_and_counts_for_more_than_priority() -> None:
    promised = work("promised", tokens=9, steps=1, deadline=1.0, is_promised=True)
    groups = groups_of([promised, work("other", tokens=3, steps=1, deadline=due(1.1), priority=5)])
    assert named(groups, divide(groups).on_time) == ["promised"]
    (alone,) = groups_of([work("not promised", tokens=9, steps=1, deadline=1.0)])
    assert divide([alone]).late == [0]


def test_nobody_is_given_up_for_one_who_then_is_given_up_too() -> None:
    promised = [
        work("kept", tokens=1, steps=1, deadline=due(0.2), is_promised=True),
        work("too long", tokens=4, steps=1, deadline=due(0.3), is_promised=True),
    ]
    high = work("high", tokens=1, steps=1, deadline=due(0.1), priority=1)
    low = work("low", tokens=1, steps=1, deadline=due(0.4))
    groups = groups_of([high, *promised, low])
    assert named(groups, divide(groups).on_time) == ["high", "kept", "low"]


def test_nor_for_one_who_is_given_up_later_for_a_third() -> None:
    groups = groups_of(
        [
            work("low", tokens=2, steps=1, deadline=due(0.3), priority=1),
            work("middle", tokens=3, steps=1, deadline=due(0.4), priority=2),
            work("high", tokens=5, steps=1, deadline=due(0.7), priority=3),
        ]
    )
    feasible = divide(groups)
    assert named(groups, feasible.on_time) == ["low", "high"]
    assert named(groups, feasible.late) == ["middle"]


def test_a_promise_that_uses_its_margin_up_is_not_broken_by_one_that_is_late() -> None:
    promised = work("promised", tokens=9, steps=1, deadline=1.0, is_promised=True)
    late = work("late", tokens=1, steps=1, deadline=1.05, priority=5)
    groups = groups_of([promised, late])
    assert named(groups, divide(groups).on_time) == ["promised"]


def test_a_request_needs_a_tick_for_each_step() -> None:
    groups = groups_of([work("deep", tokens=1, steps=10, deadline=due(2.0))])
    assert divide(groups, tick_s=0.2).on_time == [0]
    assert divide(groups, tick_s=0.25).late == [0]


@pytest.mark.parametrize(
    ("tick_s", "num_steps"), [(0.0, 15), (0.1, 15), (0.2, 7), (0.3, 5), (0.5, None)]
)
def test_a_late_one_runs_the_most_steps_that_fit(tick_s: float, num_steps: int | None) -> None:
    groups = groups_of([work("a", tokens=1, steps=20, min_steps=5, deadline=due(1.5))])
    feasible = divide(groups, tick_s=tick_s)
    if num_steps is None:
        assert feasible.late == [0]
        assert not feasible.num_steps
    else:
        assert feasible.num_steps == {0: num_steps}
        assert feasible.cost.tolist() == pytest.approx([0.1 * num_steps])


def test_requests_are_shortened_before_any_is_given_up() -> None:
    groups = groups_of(
        [
            work("a", tokens=1, steps=10, min_steps=5, deadline=due(1.0)),
            work("b", tokens=1, steps=10, min_steps=8, deadline=due(2.0)),
            work("c", tokens=1, steps=6, deadline=due(2.0)),
        ]
    )
    feasible = divide(groups)
    assert not feasible.late
    assert feasible.num_steps == {0: 6, 1: 8}
    assert feasible.slack.tolist() == pytest.approx([0.45, 0.65, 0.05])


def test_nobody_is_shortened_who_is_not_in_the_way() -> None:
    """One that is due later, or has no deadline, saves nothing for those before it."""
    groups = groups_of(
        [
            work("a", tokens=1, steps=10, deadline=due(1.0)),
            work("b", tokens=1, steps=10, min_steps=5, deadline=due(1.6)),
            work("c", tokens=1, steps=10, min_steps=5, deadline=due(9.0)),
            work("d", tokens=1, steps=10, min_steps=5),
        ]
    )
    assert divide(groups).num_steps == {1: 6}


def test_who_is_given_up_all_the_same_is_not_shortened() -> None:
    groups = groups_of(
        [
            work("a", tokens=1, steps=10, min_steps=9, deadline=due(1.0)),
            work("b", tokens=1, steps=8, deadline=due(1.2)),
        ]
    )
    feasible = divide(groups)
    assert named(groups, feasible.late) == ["a"]
    assert not feasible.num_steps


cuttable = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(1, 12), st.integers(0, 40), st.none() | st.integers(1, 6)
    ),
    min_size=1,
    max_size=8,
)


@QUICK
@given(cuttable)
def test_shortening_keeps_what_it_counts_on(
    drawn: list[tuple[int, int, int, int | None]],
) -> None:
    works = [
        work(str(i), tokens=tokens, steps=steps, min_steps=least, deadline=due(room / 10))
        for i, (tokens, steps, room, least) in enumerate(drawn)
    ]
    groups = groups_of(works)
    feasible = divide(groups)
    total = 0.0
    for index, cost in zip(feasible.on_time, feasible.cost.tolist(), strict=True):
        group = groups[index]
        planned = feasible.num_steps.get(index)
        assert cost == pytest.approx(group.cost if planned is None else group.cost_of(planned)[0])
        total += cost
        assert total <= group.deadline / MARGIN + 1e-9
    assert set(feasible.num_steps) <= set(feasible.on_time)
    without = groups_of([work(w.id, tokens=w.tokens, steps=w.num_steps, deadline=w.deadline)
                         for w in works])  # fmt: skip
    assert len(feasible.on_time) >= len(divide(without).on_time)


@QUICK
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.none() | st.integers(1, 12), st.integers(0, 11)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 60),
    st.integers(0, 15),
)
def test_most_steps_is_the_most(
    images: list[tuple[int, int | None, int]], tenths: int, ticks: int
) -> None:
    works = [
        work(str(i), group="g", tokens=1, steps=steps, min_steps=least)
        for i, (steps, least, _) in enumerate(images)
    ]
    works.append(work("last", group="g", tokens=2, steps=12, min_steps=3))
    for each, (_, _, done) in zip(works, images, strict=False):
        each.steps_done = min(done, each.num_steps - 1)
    (group,) = groups_of(works)
    seconds = tenths / 10 + 0.05
    found = most_steps(group, seconds, ticks)

    def is_enough(total: int) -> bool:
        cost, depth = group.cost_of(total)
        return cost <= seconds and depth <= ticks

    enough = [total for total in range(1, 13) if is_enough(total)]
    if enough:
        assert group.cost_of(found) == group.cost_of(max(enough))
    else:
        assert group.cost_of(found) == (group.least_cost, group.least_depth)


@QUICK
@given(jobs)
def test_letting_short_ones_pass_makes_nobody_late(drawn: list[tuple[int, int]]) -> None:
    groups = groups_of(works_of(drawn))
    feasible = divide(groups)
    order = shortest_first(feasible.cost, feasible.slack)
    assert sorted(order) == list(range(len(feasible.on_time)))
    total = 0.0
    for position in order:
        group = groups[feasible.on_time[position]]
        total += group.cost
        assert total <= group.deadline / MARGIN + 1e-9


def test_a_short_one_passes_who_can_wait() -> None:
    slack = np.array([0.6, 0.2, 5.0])
    assert shortest_first(np.array([2.0, 1.0, 0.5]), slack) == [0, 1, 2]
    assert shortest_first(np.array([2.0, 1.0, 0.1]), slack) == [2, 0, 1]
    assert shortest_first(np.array([2.0, 0.5, 0.2]), slack) == [2, 0, 1]


def test_the_earliest_finish_is_in_front_of_all_who_can_wait() -> None:
    groups = groups_of(
        [
            work("tight", tokens=9, steps=1, deadline=due(1.0)),
            work("loose", tokens=9, steps=1, deadline=due(5.0)),
        ]
    )
    others = divide(groups)
    (newcomer,) = groups_of([work("new", tokens=4, steps=2)])
    # After the tight one, before the loose one.
    assert earliest_finish(newcomer, others, 3.0, tick_s=0.0) == pytest.approx(3 + MARGIN * 1.7)
    assert earliest_finish(newcomer, others, 3.0, tick_s=2.0) == pytest.approx(3 + MARGIN * 4)
    (cut,) = groups_of([work("new", tokens=4, steps=2, min_steps=1)])
    assert earliest_finish(cut, others, 3.0, tick_s=0.0) == pytest.approx(3 + MARGIN * 1.3)
