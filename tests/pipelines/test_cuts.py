"""Cuts that were made, asked for again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cuts import Cut, check_cuts, redrawn_by


@pytest.mark.parametrize(
    ("cuts", "steps", "planned"),
    [
        ([], 20, ()),
        ([(3, 9)], 20, ((3, 9),)),
        ([(0, 9)], 9, ()),
        ([(0, 12), (0, 9), (4, 8)], 9, ((4, 8),)),
        ([(3, 12), (3, 9), (5, 7)], 20, ((3, 9), (5, 7))),
    ],
)
def test_what_was_cut_is_asked_for(
    cuts: list[tuple[int, int]], steps: int, planned: tuple[tuple[int, int], ...]
) -> None:
    assert redrawn_by(20, [Cut(*cut) for cut in cuts]) == (steps, planned)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=5).map(
        lambda cuts: [Cut(*cut) for cut in cuts]
    )
)
def test_whatever_a_scheduler_does_can_be_asked_for(asked: list[Cut]) -> None:
    """Any cuts that shorten what is left, at steps that are still to come or now."""
    made: list[Cut] = []
    step, num_steps = 0, 21
    for cut in asked:
        if step <= cut.step < cut.num_steps < num_steps:
            made.append(cut)
            step, num_steps = cut
    check_cuts(*redrawn_by(21, made))


@pytest.mark.parametrize(
    "cuts",
    [
        [(0, 5)],
        [(3, 10)],
        [(3, 3)],
        [(5, 4)],
        [(-1, 4)],
        [(2, 8), (2, 6)],
        [(4, 8), (2, 6)],
        [(2, 8), (4, 8)],
        [(2, 4), (4, 3)],
    ],
)
def test_what_no_schedule_allows(cuts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="must grow from cut to cut"):
        check_cuts(10, [Cut(*cut) for cut in cuts])
