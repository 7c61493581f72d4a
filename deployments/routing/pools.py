"""What this process knows of the deployments that it calls: told by Serve's routers, asked by the
graph.

Routers are made inside of Serve, and travel there by value: this module, which they import by name,
is where they and the graph meet. Two applications may live in one process, so a pool goes by both
names.
"""

from __future__ import annotations

import threading

from deployments.routing.backlog import Backlogs
from deployments.routing.cold import ColdState


class Pool:
    """Whether one deployment is `cold`, and what its replicas have to do where they report it."""

    def __init__(self) -> None:
        self.cold = ColdState()
        self.backlogs = Backlogs()


_pools: dict[tuple[str, str], Pool] = {}
_lock = threading.Lock()


def pool_of(application: str, deployment: str) -> Pool:
    """The same pool for all who ask in this process, from any thread."""
    with _lock:
        return _pools.setdefault((application, deployment), Pool())
