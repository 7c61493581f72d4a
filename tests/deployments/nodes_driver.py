"""`python -m tests.deployments.nodes_driver placement|losses FOLDER`: an application over nodes.

A process of its own, because its cluster has nodes with GPUs that are only told of, and that go
away. Draws with the tiny model in FOLDER, and prints JSON lines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
import ray.serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ReplicaState
from ray.util.placement_group import placement_group_table

from deployments.options.stages import (
    ParallelOptions,
    StagesConfig,
    TextEncoderOptions,
    VaeDecoderOptions,
)
from tests.cluster import ENVIRONMENT, wait_until
from tests.deployments.driver import Attempt, bind_driver, make_job
from tests.deployments.fake_gpus import FakeGpuDenoiser, FakeGpuTextEncoder, FakeGpuVaeDecoder
from tests.deployments.ray_state import Seat, queued_s, seats
from tests.serve.fake_metadata import GCP, FakeMetadata, serving
from tests.specs import tiny_spec

APP = "nodes"
JOBS = 8
STEPS = 600
"""Enough that jobs are in the middle when their node goes."""
DEADLINE_S = 240.0

_STORE_BYTES = 100 * 2**20


def main(scenario: str, folder: str) -> None:
    os.environ.update(ENVIRONMENT)
    head = {"num_cpus": 4, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        {"placement": _placement, "losses": _losses}[scenario](cluster, folder)
    finally:
        ray.serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _placement(cluster: Cluster, folder: str) -> None:
    """Two halves of a GPU and a replica of two, on two nodes that have just these."""
    pools = ["gpu", "gpu", "other"]
    nodes = [_add_node(cluster, labels={"sluice-pool": pool}).node_id for pool in pools]
    _connect(cluster, {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1"})
    selector = {"sluice-pool": "gpu"}
    half: Any = {"num_cpus": 0, "num_gpus": 0.5, "label_selector": selector}
    denoiser = FakeGpuDenoiser(
        num_cpus=0,
        num_gpus=1,
        label_selector=selector,
        calibration_s=0.1,
        parallel=ParallelOptions(tensor=2),
    )
    driver = _run(
        folder,
        StagesConfig(
            text_encoder=FakeGpuTextEncoder(**half),
            denoiser=denoiser,
            vae_decoder=FakeGpuVaeDecoder(**half),
        ),
    )
    groups = [
        {"strategy": each["strategy"], "nodes": list(each["bundles_to_node_id"].values())}
        for each in placement_group_table().values()
        if each["state"] == "CREATED"
    ]
    _print(
        pools=dict(zip(nodes, pools, strict=True)),
        seats=[seat._asdict() for seat in seats(APP)],
        groups=groups,
    )
    job = make_job("placed", steps=4, seed=3)
    image = driver.generate.remote(job).result(timeout_s=DEADLINE_S).images[0]
    _print(prompt=job.params.prompt, seed=3, steps_run=image.steps_run, image=image.b64)


def _losses(cluster: Cluster, folder: str) -> None:
    """A node gets notice, and then another vanishes, each with eight jobs under way."""
    # No CPUs: what has state of the jobs, and whatever else is not told to, goes to the head.
    for _ in range(3):
        _add_node(cluster, resources={"encoder": 1, "decoder": 1})
    _connect(cluster, {})
    driver = _run(
        folder,
        StagesConfig(
            text_encoder=TextEncoderOptions(
                num_replicas=2, num_cpus=0, resources={"encoder": 1}, health_check_period_s=1
            ),
            denoiser=FakeGpuDenoiser(
                num_replicas=2, num_cpus=0, num_gpus=2, health_check_period_s=1, calibration_s=0.5
            ),
            vae_decoder=VaeDecoderOptions(
                num_replicas=2, num_cpus=0, resources={"decoder": 1}, health_check_period_s=1
            ),
        ),
    )
    replicas = len(seats(APP))
    with _watches() as watches:
        with _jobs_under_way(cluster, driver, "noticed") as node:
            watch, metadata = watches[node.node_id]
            metadata.items[GCP + "preempted"] = "TRUE"
        _, log = watch.communicate(timeout=DEADLINE_S)
        _print(node="noticed", watch=watch.returncode, log=log, actors=_actors_on(node))
    wait_until(lambda: _replica_states() == {ReplicaState.RUNNING: replicas}, within_s=DEADLINE_S)
    with _jobs_under_way(cluster, driver, "vanished") as node:
        _print(node="vanished", actors=_actors_on(node))
        cluster.remove_node(node, allow_graceful=False)


@contextmanager
def _watches() -> Iterator[dict[str, tuple[subprocess.Popen[str], FakeMetadata]]]:
    """`sluice drain-on-notice` beside each node with a denoiser, by the node's id."""
    with ExitStack() as stack:
        watches: dict[str, tuple[subprocess.Popen[str], FakeMetadata]] = {}
        for seat in _denoisers():
            metadata = stack.enter_context(serving())
            metadata.items[GCP + "scheduling/preemptible"] = "TRUE"
            metadata.items[GCP + "preempted"] = "FALSE"
            watch = _start_watch(seat.node, metadata.url)
            stack.callback(watch.terminate)
            watches[seat.node] = (watch, metadata)
        for _, metadata in watches.values():
            wait_until(lambda asked=metadata.asked: GCP + "preempted" in asked)
        yield watches


def _start_watch(node_id: str, metadata_url: str) -> subprocess.Popen[str]:
    options = ["--cloud", "gcp", "--node-id", node_id, "--metadata-url", metadata_url]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import serve.cli.main; serve.cli.main.main()",
            "drain-on-notice",
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def _jobs_under_way(cluster: Cluster, driver: Any, name: str) -> Iterator[Any]:
    """Eight jobs; the node with most of their denoising is given, to be taken away. Then prints
    what came of the jobs."""
    jobs = [
        make_job(f"{name}-{seed}", prompt=f"{seed} circles", steps=STEPS, seed=seed)
        for seed in range(JOBS)
    ]
    responses = [driver.generate.remote(job) for job in jobs]

    def attempts(job: Any) -> list[Attempt]:
        return driver.attempts.remote(job.request_id).result(timeout_s=DEADLINE_S)

    wait_until(
        lambda: all((made := attempts(job)) and made[-1].reached for job in jobs),
        within_s=DEADLINE_S,
    )
    busiest = max(_denoisers(), key=queued_s)
    (node,) = [node for node in cluster.worker_nodes if node.node_id == busiest.node]
    began = time.monotonic()
    yield node
    for job, response in zip(jobs, responses, strict=True):
        result = response.result(timeout_s=DEADLINE_S)
        _print(
            why=name,
            prompt=job.params.prompt,
            seed=job.params.seed,
            steps_run=result.images[0].steps_run,
            resumed_at=result.resumed_at,
            attempts=[dataclasses.asdict(attempt) for attempt in attempts(job)],
            done_after_s=round(time.monotonic() - began, 1),
            image=result.images[0].b64,
        )


def _add_node(cluster: Cluster, **options: Any) -> Any:
    return cluster.add_node(num_cpus=0, num_gpus=2, object_store_memory=_STORE_BYTES, **options)


def _connect(cluster: Cluster, env_vars: dict[str, str]) -> None:
    # It is Serve's controller that reads them, and a driver's job that starts the controller.
    ray.init(address=cluster.address, runtime_env={"env_vars": env_vars}, log_to_driver=False)
    ray.serve.start(proxy_location="Disabled")


def _run(folder: str, config: StagesConfig) -> Any:
    return ray.serve.run(bind_driver(tiny_spec(folder), config), name=APP, route_prefix=None)


def _denoisers() -> list[Seat]:
    return [seat for seat in seats(APP) if seat.name == "Denoiser"]


def _replica_states() -> Counter[str]:
    states: Counter[str] = Counter()
    for deployment in ray.serve.status().applications[APP].deployments.values():
        states.update(deployment.replica_states)
    return states


def _actors_on(node: Any) -> list[str]:
    return [seat.name for seat in seats(APP) if seat.node == node.node_id]


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
