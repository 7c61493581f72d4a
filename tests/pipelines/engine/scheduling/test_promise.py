"""What may be promised, and that it is kept. No model, no clock."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.engine.scheduling.group import MARGIN
from tests.pipelines.engine.works import ONE_AT_A_TIME, SURFACE, Run, scheduler, work
from tests.properties import examples


def test_a_promise_refuses_what_cannot_be_kept_and_changes_nothing() -> None:
    made = scheduler(cost=ONE_AT_A_TIME)
    made.add(work("first", steps=10, deadline=17.0, is_promised=True))
    harmful = made.promise(work("new", steps=5, deadline=7.0, is_promised=True), 0.0)
    assert not harmful.is_kept
    assert harmful.earliest_s == pytest.approx(MARGIN * 15 + 1)
    assert harmful.least_s == pytest.approx(MARGIN * 5 + 1)
    assert len(made) == 1
    assert made.queued_s == pytest.approx(10.0)
    small = made.promise(work("new", steps=2, deadline=3.5, is_promised=True), 0.0)
    assert small.is_kept
    hopeless = made.promise(work("new", steps=2, deadline=1.0, is_promised=True), 0.0)
    assert not hopeless.is_kept


def test_a_question_leaves_no_trace() -> None:
    """Neither of a request that is new nor of one whose other images are here."""
    for group in ("new", "g"):
        first = work("0", group="g", tokens=10, steps=2, deadline=30.0)
        made = scheduler(works=[first, work("other", steps=3, deadline=9.0)])
        asked = work("1", group=group, tokens=80, steps=5, deadline=2.0, is_promised=True)
        before = made.promise(work("2", steps=2, deadline=8.0), 0.0), made.queued_s
        made.promise(asked, 0.0, num_images=3)
        after = made.promise(work("2", steps=2, deadline=8.0), 0.0), made.queued_s
        assert before == after
        assert not made.has_promised("g")


def test_a_refused_image_leaves_its_request_as_it_was() -> None:
    made = scheduler(cost=ONE_AT_A_TIME, works=[work("0", group="g", steps=2, deadline=3.0)])
    second = work("1", group="g", steps=2, deadline=3.0, is_promised=True)
    assert not made.promise(second, 0.0).is_kept
    other = work("other", steps=2, deadline=3.5, is_promised=True)
    assert made.promise(other, 0.0).is_kept, "nothing was promised to the first"


def test_bounds_on_a_tick_make_promises_dearer() -> None:
    """With at most two works in a tick, two share its base; the knee alone would let eight."""
    each = work("a", tokens=10, steps=10)
    assert scheduler(max_works=2).promise(each, 0.0).earliest_s == pytest.approx(
        MARGIN * 2.5 + 0.25
    )


@pytest.mark.parametrize("deadline", [3.5, 3.8, 4.0])
def test_a_promise_that_cannot_wait_for_a_tick_is_reckoned_with(deadline: float) -> None:
    """Six ticks of 0.55 s for itself keep it; whoever joins them or comes first would break it."""
    tight = work("tight", tokens=40, steps=6, deadline=deadline, is_promised=True)
    made = scheduler(max_works=2, works=[tight])
    new = work("new", tokens=10, steps=4, deadline=2.0, is_promised=True)
    new.deadline = made.promise(new, 0.0).earliest_s + 1e-6
    assert made.promise(new, 0.0).is_kept
    made.add(new)
    done = Run(made).until_idle().done
    assert done["tight"] <= deadline
    assert done["new"] <= new.deadline


requests = st.lists(
    st.tuples(
        st.sampled_from([10, 20, 40]),  # tokens
        st.integers(1, 12),  # steps
        st.floats(1.0, 8.0),  # deadline as a multiple of its time alone
        st.floats(0.0, 4.0),  # seconds until the next
        st.integers(0, 2),  # priority
        st.booleans(),  # refuses to be late
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("bounds", [(10_000, 100), (150, 2)], ids=["knee", "two works"])
@settings(max_examples=examples(40))
@given(drawn=requests)
# One that comes later, is due earlier, and lengthens the ticks of a promised one.
@example(
    [
        (10, 1, 1.0, 0.0, 0, False),
        (10, 1, 1.0, 1.0, 0, False),
        (10, 9, 1.0, 0.0, 0, True),
        (40, 2, 1.0, 0.0, 0, False),
    ]
)
# Two promised ones that are kept only if they step together: neither can wait for the other.
@example(
    [
        *[(10, 1, 1.0, 0.0, 0, False)] * 11,
        (10, 1, 2.0, 0.0, 0, False),
        (10, 2, 1.0, 0.0, 0, True),
        (10, 3, 1.0, 0.0, 0, True),
    ]
)
def test_promised_requests_are_on_time_whatever_comes_later(
    bounds: tuple[int, int], drawn: list[tuple[int, int, float, float, int, bool]]
) -> None:
    run = Run(scheduler("edf", max_tokens=bounds[0], max_works=bounds[1]))
    due: dict[str, float] = {}
    comes = 0.0
    for i, (tokens, steps, factor, pause, priority, refuses) in enumerate(drawn):
        while run.now < comes and run.tick() is not None:
            pass
        run.now = max(run.now, comes)
        comes = run.now + pause
        alone_s = steps * SURFACE.seconds(work("x", tokens=tokens).load)
        each = work(
            str(i),
            tokens=tokens,
            steps=steps,
            arrival=run.now,
            deadline=run.now + factor * alone_s + 0.5,
            priority=priority,
            is_promised=refuses,
        )
        if refuses:
            promise = run.scheduler.promise(each, run.now)
            if not promise.is_kept:
                each.deadline = run.now + promise.earliest_s + 1e-6
                assert run.scheduler.promise(each, run.now).is_kept, "the earliest can be promised"
            assert each.deadline is not None
            due[each.id] = each.deadline
        run.scheduler.add(each)
    run.until_idle()
    for name, deadline in due.items():
        assert run.done[name] <= deadline + 1e-9
