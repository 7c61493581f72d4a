"""FakeCloud: a Ray cluster whose autoscaler starts and ends nodes, all on this machine.

The head is a real `ray start --head`, the autoscaler Ray's own with its `fake_multinode` provider:
a node is a raylet of its own that is told to have GPUs, started when replicas ask for what no node
has, and ended after `idle_s` without any. Serve, its controller and its replicas are as on a real
cluster; what is missing is the minutes that a cloud takes for a machine.

Ray's own `AutoscalingCluster` needs a file that its wheel does not have, and ends every Ray of the
machine. This one ends what it has started, by the mark in the processes' environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
import ray.exceptions
import ray.serve

from serve.demo.child_server import HOST, choose_port
from serve.demo.process_family import ProcessFamily

ROOT = Path(__file__).resolve().parents[2]

HEAD_CPUS = 4
"""Logical ones: for Serve's controller and the stages that stay."""

_FIRST_PORT = 21_000
"""Away from Ray's usual ports, where another cluster may be."""
_STORE_BYTES = 150 * 2**20
_HEAD_TYPE = "ray.head.default"  # the provider knows the head by this name

_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    # The second version needs the file that the wheel does not have.
    "RAY_enable_autoscaler_v2": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}


class FakeCloud:
    """A head node, and up to `max_nodes` machines with `resources` each; a context manager.

    While it is open, this process is a driver of its cluster, with Ray Serve's proxy at `url`.
    """

    def __init__(self, resources: Mapping[str, int], *, max_nodes: int, idle_s: float) -> None:
        self._config = _autoscaler_config(resources, max_nodes=max_nodes, idle_s=idle_s)
        self._family = ProcessFamily()
        self._http_port = choose_port(_FIRST_PORT)
        self.url = f"http://{HOST}:{self._http_port}"

    def __enter__(self) -> Self:
        # A short path: Ray keeps sockets below it, whose names are limited.
        self._folder = Path(tempfile.mkdtemp(prefix="cloud-"))
        try:
            self._start()
        except BaseException:  # whatever it was, no process is left behind
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def machines(self) -> int:
        """Nodes that are alive, but for the head."""
        return sum(node["Alive"] for node in ray.nodes()) - 1

    def _start(self) -> None:
        port = choose_port(self._http_port + 1)
        address = f"{HOST}:{port}"
        self._config["provider"]["gcs_address"] = address
        config = self._folder / "autoscaler.json"
        config.write_text(json.dumps(self._config))
        options = {
            "port": port,
            "node-ip-address": HOST,
            "num-cpus": HEAD_CPUS,
            "object-store-memory": _STORE_BYTES,
            "autoscaling-config": config,
            "temp-dir": self._folder,
            "include-dashboard": "false",
            "ray-client-server-port": choose_port(port + 1),
            "dashboard-agent-listen-port": 0,
        }
        environment = {**os.environ, **_ENVIRONMENT, **self._family.environment}
        environment.pop("RAY_ADDRESS", None)
        # Workers find the packages wherever this was started.
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), environment.get("PYTHONPATH")])
        )
        subprocess.run(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--disable-usage-stats",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            env=environment | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _head_id()},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        os.environ["RAY_AUTH_MODE"] = "disabled"
        ray.init(address=address, log_to_driver=False, namespace="serve")
        http: dict[str, Any] = {"host": HOST, "port": self._http_port}
        # One proxy: on this machine nodes would fight for the port.
        ray.serve.start(proxy_location="HeadOnly", http_options=http)

    def _end(self) -> None:
        if ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.serve.shutdown()
            ray.shutdown()
        self._family.end(leave_s=0)
        shutil.rmtree(self._folder, ignore_errors=True)


def _autoscaler_config(
    resources: Mapping[str, int], *, max_nodes: int, idle_s: float
) -> dict[str, Any]:
    """As a file for `ray up`."""
    machine = {"resources": {**resources, "object_store_memory": _STORE_BYTES}}
    return {
        "cluster_name": "fake",
        "max_workers": max_nodes,
        "upscaling_speed": float(max_nodes),
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "head_node_id": _head_id(),
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": {
            _HEAD_TYPE: {"resources": {"CPU": HEAD_CPUS}, "node_config": {}, "max_workers": 0},
            "machine": {**machine, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
        },
        "head_node_type": _HEAD_TYPE,
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "initialization_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def _head_id() -> str:
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    return FAKE_HEAD_NODE_ID
