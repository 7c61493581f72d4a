"""One small Ray cluster for all tests that need a real one.

Import the fixture `cluster` in a conftest; several may, and share the cluster. Starting takes
seconds, so it starts with the first test that asks and ends with the session.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.serve

ROOT = Path(__file__).parent.parent

_NUM_CPUS = 4
"""Logical ones: replicas take fractions, and tests may run two applications."""

ENVIRONMENT = {
    # Workers import the repository's packages, and its tests, from wherever pytest was started.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middleware",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """A running cluster with Ray Serve; `http_port` is where its proxy listens."""

    http_port: int

    def kill_replica(self, deployment: str, *, app: str) -> None:
        """Kill one replica of a deployment, as a crash would."""
        prefix = f"SERVE_REPLICA::{app}#{deployment}#"
        actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
        names = [actor["name"] for actor in actors if actor["name"].startswith(prefix)]
        assert names, f"no replica of {deployment} runs in {app}"
        ray.kill(ray.get_actor(names[0], namespace="serve"))


def wait_until(is_true: Callable[[], bool], *, within_s: float = 120.0) -> None:
    """Look again and again; fails when it has not become true in time."""
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


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
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
