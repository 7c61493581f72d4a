"""`python -m tests.deployments.packing_driver`: where Serve puts replicas that share GPUs.

A process of its own, because its cluster has nodes with GPUs that are only told of. Prints one JSON
line for each way to schedule: on how many nodes the replicas are, and whether two GPUs of one node
are still to be had.
"""

from __future__ import annotations

import json
import os
from typing import Any

import ray
import ray.serve
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from deployments.options.stages import StageOptions
from tests.cluster import ENVIRONMENT

_STORE_BYTES = 100 * 2**20
_PLACED_WITHIN_S = {"1": 300.0, "0": 3.0}
"""How long to wait for both GPUs: where they are free they come at once, else never."""


class Sharer:
    """A stage that shares a GPU."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


def main() -> None:
    os.environ.update(ENVIRONMENT)
    head = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=2, object_store_memory=_STORE_BYTES)
        for packs in ("0", "1"):
            print(json.dumps(_try(cluster.address, packs)), flush=True)
    finally:
        cluster.shutdown()


def _try(address: str | None, packs: str) -> dict[str, Any]:
    # It is Serve's controller that reads this, and a driver's job that starts the controller.
    environment = {"env_vars": {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": packs}}
    ray.init(address=address, runtime_env=environment, log_to_driver=False)
    try:
        options = StageOptions(num_cpus=0.1, num_gpus=0.5, num_replicas=2).deployment_kwargs()
        sharers = ray.serve.deployment(name="Sharer", **options)(Sharer).bind()
        ray.serve.start(proxy_location="Disabled")
        handle = ray.serve.run(sharers, name="sharers", route_prefix=None)
        nodes = set(handle.broadcast("node").results())
        group = placement_group([{"GPU": 1}] * 2, strategy="STRICT_PACK")
        both = group.wait(_PLACED_WITHIN_S[packs])
        remove_placement_group(group)
        return {"packs": packs == "1", "nodes": len(nodes), "both_gpus": both}
    finally:
        ray.serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
