"""Refuses, where Ray runs already, what its machines can never hold: a GPU where there is none.

Serve waits for ever for such a replica. A cluster that `ray.init` started, as `serve run --address
local` does, never grows, so it is refused there; any other may, so there it is only said.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false
# Ray's functions are untyped, and there is no public way to what `ray.init` noted.

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.experimental.internal_kv import _internal_kv_get

from pipelines.errors import ConfigurationError
from serve.capacity.gpus import counted
from serve.capacity.machines import Machines, machines_of
from serve.capacity.packing import pack
from serve.capacity.placement import Placement, placements
from serve.capacity.suitability import why_nowhere
from serve.settings.settings import Settings

logger = logging.getLogger("ray.serve")


def check_machines(settings: Settings) -> None:
    """Raises ConfigurationError for what can never be placed on this process's cluster, if any."""
    if not ray.is_initialized():
        return
    found = what_is_missing(placements(settings), machines_of(ray.nodes()))
    if found and _never_grows():
        raise ConfigurationError("\n".join(found))
    for line in found:
        logger.warning("waiting for a node to join: %s", line)


def what_is_missing(rows: Sequence[Placement], machines: Machines) -> list[str]:
    """What nodes lack for the smallest number of replicas of each deployment.

    Memory is not looked at: what it takes is an estimate, and no reason not to try.
    """
    rows = [replace(row, memory=None) for row in rows if row.min_replicas > 0]
    alone = [line for row in rows if (line := why_nowhere(row, machines.types))]
    if alone:
        return alone
    left = pack(rows, machines, at_most=False).left
    cpus = sum(row.min_replicas * row.num_cpus for row in rows)
    gpus = sum(row.min_replicas * row.num_gpus for row in rows)
    have = sum(kind.num_cpus for kind in machines.types), sum(k.num_gpus for k in machines.types)
    return [
        f"{name}: has no place beside the others, which want {counted(cpus, 'CPU')} and"
        f" {counted(gpus, 'GPU')} with it where there are {have[0]:g} and {have[1]}; lower their"
        " num_cpus and num_gpus"
        for name in left
    ]


def _never_grows() -> bool:
    """Whether the cluster was started by `ray.init`, which leaves a note about it."""
    note = _internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster") or b"{}"
    return json.loads(note).get("ray_init_cluster") is True
