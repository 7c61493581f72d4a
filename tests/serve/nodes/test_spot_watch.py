from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import pytest

from serve.nodes.ray_node import DrainRefused
from serve.nodes.spot import MetadataUnavailable, Notice
from serve.nodes.spot_watch import SpotWatch

GOING = Notice("the cloud reclaims this", 1772366400.0)
AT_RISK = Notice("the cloud recommends to leave", None)
DOWN = MetadataUnavailable("nobody answers")

Answer = Notice | Exception | None
T = TypeVar("T")


class Script:
    """A metadata service that gives these answers in turn, and a node that ends with the last."""

    pause_s = 5.0

    def __init__(self, answers: Sequence[Answer], *, spot: Sequence[bool | Exception] = [True]):
        self._answers = list(answers)
        self._spot = list(spot)
        self.refusals: list[Exception] = []
        self.drained: list[Notice] = []
        self.pauses: list[float] = []

    def is_spot(self) -> bool:
        return given(self._spot.pop(0))

    def notice(self) -> Notice | None:
        return given(self._answers.pop(0))

    def is_running(self) -> bool:
        return bool(self._answers)

    def drain(self, reason: str, deadline: float | None) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.drained.append(Notice(reason, deadline))

    def watch(self) -> None:
        SpotWatch(self, self, sleep=self.pauses.append).run()


def given(answer: T | Exception) -> T:
    if isinstance(answer, Exception):
        raise answer
    return answer


class Line(NamedTuple):
    level: int
    text: str


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Line]]:
    caplog.set_level(logging.INFO, "sluice.spot")
    return lambda: [Line(record.levelno, record.getMessage()) for record in caplog.records]


def test_a_notice_drains_the_node_once():
    script = Script([None, GOING, GOING, GOING])
    script.watch()
    assert script.drained == [GOING]
    assert script.pauses == [5.0] * 4


def test_a_deadline_follows_a_recommendation():
    script = Script([AT_RISK, AT_RISK, GOING, GOING])
    script.watch()
    assert script.drained == [AT_RISK, GOING]


def test_a_machine_that_is_not_on_spot_is_left_alone(said: Callable[[], list[Line]]):
    script = Script([GOING], spot=[False])
    script.watch()
    assert script.drained == []
    assert said() == [Line(logging.INFO, "this machine is not on spot: there is nothing to watch")]


def test_trouble_is_named_once_and_asked_again(said: Callable[[], list[Line]]):
    script = Script([DOWN, DOWN, None, DOWN, GOING], spot=[DOWN, True])
    script.watch()
    assert script.drained == [GOING]
    assert said() == [
        Line(logging.WARNING, "MetadataUnavailable: nobody answers; asking again"),
        Line(logging.INFO, "MetadataUnavailable: over"),
        Line(logging.WARNING, "MetadataUnavailable: nobody answers; asking again"),
        Line(
            logging.WARNING,
            "the cloud reclaims this at 12:00:00 UTC: its Ray node is drained",
        ),
        Line(logging.INFO, "MetadataUnavailable: over"),
        Line(logging.INFO, "the Ray node has ended"),
    ]


def test_a_ray_that_cannot_be_asked_is_asked_again():
    script = Script([GOING, GOING, GOING])
    script.refusals = [DrainRefused("not now"), DrainRefused("not yet")]
    script.watch()
    assert script.drained == [GOING]
