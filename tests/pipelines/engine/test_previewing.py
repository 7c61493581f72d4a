"""Whose predictions a tick leaves behind, and to whom they go."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.engine.entry import Entry
from pipelines.engine.previewing import MOST_AT_ONCE, Previewing
from pipelines.previews.preview import Preview
from pipelines.previews.previewer import Predicted
from tests.pipelines.engine.fakes import TEXT, job


class Taker:
    """A previewer that keeps what it is offered."""

    def __init__(self) -> None:
        self.is_idle = True
        self.offered: list[list[str]] = []

    def offer(self, items: Sequence[Predicted]) -> None:
        self.offered.append([item.work_id for item in items])


def ignore(_: Preview) -> None:
    return


def entry(name: str, *, is_shown: bool = True, step: int = 2) -> Entry:
    made = Entry(
        job=job(name),
        positive=TEXT,
        negative=None,
        on_step=None,
        on_checkpoint=None,
        on_preview=ignore,
        future=Future(),
        submitted=0.0,
    )
    made.is_shown = is_shown
    made.trajectory = SimpleNamespace(step=step, num_steps=9, predicts=False, predicted=None)
    return made


def tick(previewing: Previewing, *entries: Entry) -> None:
    previewing.choose(entries)
    for each in entries:
        each.trajectory.step += 1
        each.trajectory.predicted = torch.zeros(1, 1) if each.trajectory.predicts else None
    previewing.show(entries)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engine.previewing.EVERY_S", 0.0)


def previewing_to(taker: Taker) -> Previewing:
    return Previewing(cast(Any, taker))


def test_only_those_are_predicted_that_are_looked_at_and_not_done() -> None:
    taker = Taker()
    tick(
        previewing_to(taker),
        entry("seen"),
        entry("unseen", is_shown=False),
        entry("last", step=8),
    )
    assert taker.offered == [["seen"]]


def test_nothing_is_predicted_while_the_previewer_is_busy() -> None:
    taker, seen = Taker(), entry("seen")
    taker.is_idle = False
    tick(previewing_to(taker), seen)
    assert taker.offered == [[]]
    assert not seen.trajectory.predicts


def test_of_many_each_has_its_turn() -> None:
    taker = Taker()
    previewing, entries = previewing_to(taker), [entry(str(i)) for i in range(MOST_AT_ONCE + 3)]
    tick(previewing, *entries)
    tick(previewing, *entries)
    assert [len(each) for each in taker.offered] == [MOST_AT_ONCE, MOST_AT_ONCE]
    assert set(taker.offered[0]) | set(taker.offered[1]) == {each.id for each in entries}


def test_an_image_is_not_shown_more_often_than_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.engine.previewing.EVERY_S", 3600.0)
    taker, seen = Taker(), entry("seen")
    previewing = previewing_to(taker)
    tick(previewing, seen)
    tick(previewing, seen)
    assert taker.offered == [["seen"], []]


def test_without_a_previewer_trajectories_are_left_alone() -> None:
    bare = entry("a")
    bare.trajectory = None
    previewing = Previewing(None)
    previewing.choose([bare])
    previewing.show([bare])
