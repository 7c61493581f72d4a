"""One small Ray cluster for all tests that need a real one.

Import the fixture `cluster` in a conftest; several may, and share the cluster. Starting takes
seconds, so it starts with the first test that asks and ends with the session.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.serve
from ray.serve.schema import ApplicationStatus, ReplicaState

from deployments.profiling import Denoisers

ROOT = Path(__file__).parent.parent

_NUM_CPUS = 6
"""Logical ones: replicas take fractions, and tests share several applications."""

# As important as the tests that wait for them: by Ray's own 15, they get 3 % of a busy core.
PRIORITY = {"RAY_worker_niceness": "0"}
ENVIRONMENT = {
    **PRIORITY,
    # Workers import the repository's packages, and its tests, from wherever pytest was started.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middleware",
}

PATIENCE_S = 400.0
"""For what surely comes, on a machine that others keep busy too: a bound on hanging, no promise."""

_TURN_S, _LONGEST_TURN_S = 0.001, 0.02
"""Few steps are done, and few calls answered, while a process runs for so long."""

_PROXY_PORTS = range(20_000, 30_000)
"""Below those that any socket gets unasked, and those that servers have by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """A running cluster with Ray Serve; `http_port` is where its proxy listens."""

    http_port: int

    def kill_replica(self, deployment: str, *, app: str) -> None:
        """Kill one replica of a deployment, as a crash would."""
        names = sorted(replica_names(app, deployment))
        assert names, f"no replica of {deployment} runs in {app}"
        ray.kill(ray.get_actor(names[0], namespace="serve"))
        wait_until(lambda: names[0] not in replica_names(app, deployment))


def replica_names(app: str, deployment: str = "") -> set[str]:
    """Of all replicas there are, those that stop included: none is used twice."""
    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    prefix = f"SERVE_REPLICA::{app}#{deployment}{'#' if deployment else ''}"
    return {actor["name"] for actor in actors if actor["name"].startswith(prefix)}


def is_whole(app: str) -> bool:
    """Whether each replica that `app` should have runs, and no other is there: for Serve and for
    Ray, as Serve learns late that one has died."""
    found = ray.serve.status().applications.get(app)
    if found is None or found.status != ApplicationStatus.RUNNING:
        return False
    return all(
        set(deployment.replica_states) <= {ReplicaState.RUNNING}
        and deployment.replica_states.get(ReplicaState.RUNNING, 0) == len(replica_names(app, name))
        for name, deployment in found.deployments.items()
    )


def replicas_in(state: ReplicaState, deployment: str, *, app: str) -> int:
    """How many replicas of a deployment Serve has in a state."""
    found = ray.serve.status().applications[app].deployments.get(deployment)
    return found.replica_states.get(state, 0) if found else 0


def ongoing(deployment: str, *, app: str) -> int:
    """Requests that the replicas of a deployment have taken in and not answered."""
    return sum(ongoing_of_each(deployment, app=app))


def ongoing_of_each(deployment: str, *, app: str) -> list[int]:
    """The same for each replica, in no order."""
    replicas = [ray.get_actor(name, namespace="serve") for name in replica_names(app, deployment)]
    return ray.get([replica.get_num_ongoing_requests.remote() for replica in replicas])


def replica_processes(deployment: str, *, app: str) -> list[psutil.Process]:
    """Of a deployment's replicas, among the processes that this one has started."""
    return children_called(f"ray::ServeReplica:{app}:{deployment}")


def kill(replica: psutil.Process, deployment: str, *, app: str) -> None:
    """Kill this replica of a deployment, be it paused; Ray knows of it afterwards."""
    before = replica_names(app, deployment)
    replica.kill()
    wait_until(lambda: bool(before - replica_names(app, deployment)))


def kill_busiest(app: str, *, least_s: float) -> None:
    """Kill the denoiser, or replica of fused stages, that has the most to do, once that is more
    than `least_s` seconds of work: it surely dies with images under way."""
    denoisers = Denoisers.of(app)
    wait_until(lambda: (load := denoisers.loads()[0]).works > 0 and load.queued_s > least_s)
    victim = denoisers.loads()[0].replica
    (name,) = [each for each in replica_names(app) if each.endswith(f"#{victim}")]
    ray.kill(ray.get_actor(name, namespace="serve"))


def children_called(title: str) -> list[psutil.Process]:
    """Processes that this one has started, at whatever remove, whose titles begin so."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if _title(child).startswith(title)]


@contextmanager
def paused(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Processes stand still meanwhile: what they have to do stays as it is, however long that is.

    They may be killed, but answer nothing; Serve takes them for sick after 30 s.
    """
    stopped = list(processes)
    try:
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def paused_once(is_true: Callable[[], bool], processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Processes stand still in a moment when something is true, which others can tell of them.

    They take turns, to run for a few milliseconds and to stand still while they are looked at. What
    is true for longer than that is not missed.
    """
    turned = list(processes)
    deadline = time.monotonic() + PATIENCE_S
    turn_s = _TURN_S
    while True:
        with paused(turned):
            if is_true():
                yield
                return
        assert time.monotonic() < deadline, "it never became true"
        # Nothing else is done here, or they would run for as long as that takes. Where others keep
        # the machine busy, they may have to wait for it longer than a turn was at first; but what
        # is true for a moment only, short turns find.
        time.sleep(turn_s)
        turn_s = 1.1 * turn_s if turn_s < _LONGEST_TURN_S else _TURN_S


def wait_until(is_true: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Look again and again; fails when it has not become true in time.

    Ever more seldom, as to look takes processor time from what is waited for.
    """
    deadline = time.monotonic() + within_s
    pause_s = 0.02
    while not is_true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.2)


_users = 0
_running: LocalCluster | None = None


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """The cluster. Deploy to it with `ray.serve.run(..., name=...)`, and delete the app after."""
    global _users, _running
    _users += 1
    if _running is None:
        _running = _start()
    yield _running
    _users -= 1
    if _users == 0:
        _running = None
        ray.serve.shutdown()
        ray.shutdown()


def _start() -> LocalCluster:
    os.environ.update(ENVIRONMENT)
    ray.init(
        address="local",
        num_cpus=_NUM_CPUS,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
    )
    port = free_port()
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    ray.serve.start(http_options=options)
    return LocalCluster(http_port=port)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago, and that nobody gets unasked."""
    while True:
        port = random.choice(_PROXY_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
