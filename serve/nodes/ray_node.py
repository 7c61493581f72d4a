"""RayNode: the Ray node of this machine, from outside of it: whether it runs, and to drain it.

Found among the machine's processes, as Ray's own command line does it: the raylet's arguments have
its id and the address of the control service. Joins no cluster, and starts no worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, cast

import psutil
import ray._raylet
import ray.exceptions
from ray.core.generated import autoscaler_pb2

from pipelines.errors import ConfigurationError

_RAYLET = "raylet"
_TIMEOUT_S = 10.0
_PREEMPTION: int = cast(Any, autoscaler_pb2).DRAIN_NODE_REASON_PREEMPTION


class DrainRefused(Exception):
    """Ray does not drain the node, or cannot be asked; the message can be shown as it is."""


class RayNode:
    """One Ray node on this machine; `id` is Ray's, in hexadecimal digits."""

    def __init__(self, raylet: psutil.Process, node_id: str, gcs_address: str) -> None:
        self.id = node_id
        self._raylet = raylet
        self._gcs_address = gcs_address

    @classmethod
    def find(cls, node_id: str | None = None) -> RayNode:
        """The node that runs here; `node_id` chooses among several, as only tests have them.

        Raises ConfigurationError if there is none, or more than one.
        """
        nodes = [node for process in psutil.process_iter() if (node := _node_of(process))]
        found = [node for node in nodes if node_id in (None, node.id)]
        if not found:
            raise ConfigurationError(
                "no such Ray node runs on this machine; call this after `ray start`"
            )
        if len(found) > 1:
            raise ConfigurationError("several Ray nodes run on this machine; choose by --node-id")
        return found[0]

    def is_running(self) -> bool:
        """Whether the node's raylet is still there."""
        try:
            return self._raylet.is_running() and self._raylet.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def drain(self, reason: str, deadline: float | None) -> None:
        """Tell Ray that the node goes away, by Unix time `deadline` if there is one.

        Nothing new is placed on it, Serve starts replacements of its replicas elsewhere and takes
        them away in time, and the node ends once it is empty. Raises DrainRefused.
        """
        try:
            accepted, why_not = _gcs_client(self._gcs_address).drain_node(
                self.id,
                _PREEMPTION,
                reason,
                _milliseconds(deadline),
                timeout=_TIMEOUT_S,
            )
        except (ray.exceptions.RayError, OSError) as error:
            raise DrainRefused(f"Ray's control service cannot be asked: {error}") from error
        if not accepted:
            raise DrainRefused(str(why_not))


def _gcs_client(address: str) -> Any:
    """Ray's own client of its control service, which `ray drain-node` uses too."""
    return cast(Any, ray._raylet).GcsClient(address=address)


def _milliseconds(deadline: float | None) -> int:
    """As Ray wants a deadline: 0 is none, and one that has passed is as good as now."""
    return 0 if deadline is None else math.floor(max(deadline, time.time()) * 1000)


def _node_of(process: psutil.Process) -> RayNode | None:
    """The node whose raylet `process` is."""
    try:
        if process.name() != _RAYLET:
            return None
        arguments = process.cmdline()
    except psutil.Error:
        return None
    node_id, address = _value(arguments, "--node_id"), _value(arguments, "--gcs-address")
    return RayNode(process, node_id, address) if node_id and address else None


def _value(arguments: Sequence[str], name: str) -> str | None:
    """What follows `name=`, there or inside the commands that a raylet is given to start others."""
    for argument in arguments:
        for word in argument.split():
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None
