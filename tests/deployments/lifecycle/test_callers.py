"""Who has died is found out, and what it asked for is told to leave."""

from __future__ import annotations

import threading

import pytest
import ray.exceptions

from deployments.lifecycle import callers
from deployments.lifecycle.callers import CallerWatch, is_dead, own_name


class Cluster:
    """Says who is dead, and how often it was asked for each."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.asked: list[str] = []
        self.rounds = threading.Semaphore(0)

    def has_died(self, name: str) -> bool:
        self.asked.append(name)
        self.rounds.release()
        return name in self.dead


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def watch(cluster: Cluster) -> CallerWatch:
    return CallerWatch(has_died=cluster.has_died, period_s=0.01)


def test_works_of_the_dead_leave_and_those_of_the_living_stay(
    watch: CallerWatch, cluster: Cluster
) -> None:
    left: list[str] = []
    gone = threading.Event()

    def leave(name: str) -> None:
        left.append(name)
        if len(left) == 2:
            gone.set()

    with (
        watch.watched("a", lambda: leave("a1")),
        watch.watched("b", lambda: leave("b")),
        watch.watched("a", lambda: leave("a2")),
    ):
        cluster.dead = {"a"}
        assert gone.wait(30)
        for _ in range(5):
            cluster.rounds.acquire(timeout=30)
        assert sorted(left) == ["a1", "a2"]


def test_who_has_finished_is_not_told(watch: CallerWatch, cluster: Cluster) -> None:
    left: list[str] = []
    with watch.watched("b", lambda: None):
        with watch.watched("a", lambda: left.append("a")):
            pass
        cluster.dead = {"a"}
        for _ in range(5):
            cluster.rounds.acquire(timeout=30)
    assert left == []


def test_a_watch_begins_again_after_a_rest(watch: CallerWatch, cluster: Cluster) -> None:
    for name in ("a", "b"):
        with watch.watched(name, lambda: None):
            assert cluster.rounds.acquire(timeout=30)
        for thread in threading.enumerate():
            if thread.name == "caller-watch":
                thread.join(30)
        assert not watch._is_running


@pytest.mark.parametrize("name", ["", "itself"])
def test_nobody_and_itself_are_not_watched(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(callers, "own_name", lambda: "itself")
    watch = CallerWatch(has_died=cluster.has_died, period_s=0.01)
    with watch.watched(name, lambda: None):
        assert not watch._is_running


@pytest.mark.parametrize(
    ("raised", "dead"),
    [
        (ValueError("Failed to look up actor"), True),
        (ray.exceptions.GetTimeoutError("the control service is away"), False),
        (ray.exceptions.RaySystemError("away"), False),
    ],
)
def test_only_who_is_known_to_be_dead_is(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, dead: bool
) -> None:
    def get_actor(name: str, namespace: str) -> None:
        raise raised

    monkeypatch.setattr(callers.ray, "get_actor", get_actor)
    assert is_dead("a") is dead


def test_outside_of_a_replica_nobody_has_a_name() -> None:
    assert own_name() == ""
