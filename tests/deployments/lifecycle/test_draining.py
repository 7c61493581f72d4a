from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray.serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

import deployments.lifecycle.draining
from deployments.lifecycle.draining import DrainWatch, is_deleted, replica_flag


@pytest.fixture(autouse=True)
def _short_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.lifecycle.draining, "PERIOD_S", 0.001)


def _inside_a_replica(monkeypatch: pytest.MonkeyPatch, *actors: Any) -> None:
    monkeypatch.setattr(ray.serve, "get_replica_context", lambda: object())
    worker = SimpleNamespace(actors=dict(enumerate(actors)))
    monkeypatch.setattr(deployments.lifecycle.draining, "global_worker", worker)


def test_the_flag_of_this_replica_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = SimpleNamespace(_shutting_down=False)
    _inside_a_replica(monkeypatch, SimpleNamespace(_replica_impl=replica))
    flag = replica_flag()
    assert flag is not None
    assert not flag()
    replica._shutting_down = True
    assert flag()


def test_what_is_handed_over_is_handed_over_once() -> None:
    drained = threading.Event()
    calls: list[None] = []
    over = threading.Event()

    def hand_over() -> None:
        calls.append(None)
        over.set()

    watch = DrainWatch(hand_over, flag=drained.is_set)
    watch.start()
    assert calls == []
    drained.set()
    assert over.wait(60)
    watch._thread.join(10)
    assert calls == [None]


def test_a_watch_that_is_stopped_ends_without_a_call() -> None:
    def hand_over() -> None:
        raise AssertionError("nothing drains here")

    watch = DrainWatch(hand_over, flag=lambda: False)
    watch.start()
    watch.stop()
    watch._thread.join(10)
    assert not watch._thread.is_alive()


def test_there_is_nothing_to_watch_outside_of_a_replica(caplog: pytest.LogCaptureFixture) -> None:
    watch = DrainWatch(lambda: None)
    watch.start()
    assert not watch._thread.is_alive()
    watch.stop()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "actors", [(), (SimpleNamespace(),), (SimpleNamespace(_replica_impl=object()),)]
)
def test_a_ray_that_does_not_tell_is_named_aloud(
    actors: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    _inside_a_replica(monkeypatch, *actors)
    assert replica_flag() is None
    assert ray.__version__ in caplog.text
    assert "handed over" in caplog.text


@pytest.mark.parametrize(
    ("applications", "deleted"),
    [
        ({"mine": ApplicationStatus.RUNNING}, False),
        ({"mine": ApplicationStatus.DEPLOYING}, False),
        ({"mine": ApplicationStatus.DELETING}, True),
        ({"other": ApplicationStatus.RUNNING}, True),
    ],
)
def test_whether_the_application_is_deleted_is_the_controllers_to_say(
    applications: dict[str, ApplicationStatus], deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: SimpleNamespace(status=status) for name, status in applications.items()}
    monkeypatch.setattr(ray.serve, "status", lambda: SimpleNamespace(applications=known))
    assert is_deleted("mine") is deleted


def test_a_controller_that_does_not_answer_has_deleted_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    def fail() -> None:
        raise RayServeException("no controller")

    monkeypatch.setattr(ray.serve, "status", fail)
    assert not is_deleted("mine")
    monkeypatch.setattr(deployments.lifecycle.draining, "_ANSWER_S", 0.01)
    monkeypatch.setattr(ray.serve, "status", lambda: over.wait(30) and fail())
    assert not is_deleted("mine")
    over.set()
