"""`python -m tests.deployments.nodes_driver FOLDER`: applications over nodes.

A process of its own, because its cluster has nodes with GPUs that are only told of, and that go
away. Draws with the tiny model in FOLDER, and prints JSON lines: of what is placed where, and then
of jobs whose nodes go.
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

import psutil
import ray
import ray.serve
from ray.cluster_utils import Cluster
from ray.serve.schema import ReplicaState
from ray.util.placement_group import placement_group_table

from deployments.application import bind_stages
from deployments.names import StageName
from deployments.options.stages import (
    ParallelOptions,
    StagesConfig,
    VaeDecoderOptions,
)
from pipelines.contracts import GenerationJob
from tests.cluster import (
    ENVIRONMENT,
    PATIENCE_S,
    is_whole,
    paused,
    paused_once,
    replicas_in,
    wait_until,
)
from tests.deployments.driver import Attempt, bind_driver, make_job
from tests.deployments.fake_gpus import FakeGpuDenoiser, FakeGpuTextEncoder, FakeGpuVaeDecoder
from tests.deployments.ray_state import Seat, seats
from tests.serve.fake_metadata import GCP, FakeMetadata, serving
from tests.specs import tiny_spec

PLACED, APP = "placed", "nodes"
SHARED = (StageName.SAFETY, StageName.FINISHER)
JOBS = 8
STEPS = 200
EARLY = 60
"""Steps that jobs may have taken when their node goes. It must also hear of that, which takes a
denoiser a fraction of a second."""

_STORE_BYTES = 100 * 2**20
_POOLS = ("gpu", "gpu", "other")


def main(folder: str) -> None:
    os.environ.update(ENVIRONMENT)
    head = {"num_cpus": 4, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        pools = {_add_node(cluster, pool): pool for pool in _POOLS}
        # It is Serve's controller that reads it, and a driver's job that starts the controller.
        packs = {"env_vars": {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1"}}
        ray.init(address=cluster.address, runtime_env=packs, log_to_driver=False)
        ray.serve.start(proxy_location="Disabled")
        handles = _run_shared(folder)
        _placement(folder, handles, pools)
        _losses(cluster, folder, handles)
    finally:
        ray.serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _run_shared(folder: str) -> dict[str, Any]:
    """The two stages that both applications use, which need no GPU: applications of their own."""
    bound = bind_stages(tiny_spec(folder), StagesConfig())
    return {
        name.key: ray.serve.run(bound[name.key], name=str(name), route_prefix=None)
        for name in SHARED
    }


def _placement(folder: str, handles: dict[str, Any], pools: dict[str, str]) -> None:
    """Two halves of a GPU and a replica of two, on two nodes that have just these."""
    selector = {"sluice-pool": "gpu"}
    half: Any = {"num_cpus": 0, "num_gpus": 0.5, "label_selector": selector}
    denoiser = FakeGpuDenoiser(
        num_cpus=0,
        num_gpus=1,
        label_selector=selector,
        calibration_s=0.1,
        parallel=ParallelOptions(tensor=2),
    )
    config = StagesConfig(
        text_encoder=FakeGpuTextEncoder(**half),
        denoiser=denoiser,
        vae_decoder=FakeGpuVaeDecoder(**half),
    )
    driver = _run(PLACED, folder, config, handles)
    groups = [
        {"strategy": each["strategy"], "nodes": list(each["bundles_to_node_id"].values())}
        for each in placement_group_table().values()
        if each["state"] == "CREATED"
    ]
    shared = [seat for app in SHARED for seat in seats(app) if seat.name == app]
    placed = [*seats(PLACED), *shared]
    _print(pools=pools, seats=[seat._asdict() for seat in placed], groups=groups)
    job = make_job("placed", steps=4, seed=3)
    image = driver.generate.remote(job).result(timeout_s=PATIENCE_S).images[0]
    _print(prompt=job.params.prompt, seed=3, steps_run=image.steps_run, image=image.b64)
    ray.serve.delete(PLACED)
    wait_until(lambda: not seats(PLACED))


def _losses(cluster: Cluster, folder: str, handles: dict[str, Any]) -> None:
    """A node gets notice, and then another vanishes, each with eight jobs under way."""
    # No CPUs: what has state of the jobs, and whatever else is not told to, goes to the head.
    config = StagesConfig(
        denoiser=FakeGpuDenoiser(
            num_replicas=2, num_cpus=0, num_gpus=2, health_check_period_s=1, calibration_s=0.5
        ),
        vae_decoder=VaeDecoderOptions(
            num_replicas=2, num_cpus=0, resources={"decoder": 1}, health_check_period_s=1
        ),
    )
    driver = _run(APP, folder, config, handles)
    with _watches() as watches:
        with _jobs_under_way(driver, "noticed") as victim:
            watch, metadata = watches[victim.node]
            metadata.items[GCP + "preempted"] = "TRUE"
            # Meanwhile it stands still, and so has its jobs when it is to go.
            wait_until(lambda: replicas_in(ReplicaState.STOPPING, "Denoiser", app=APP) == 1)
        _, log = watch.communicate(timeout=PATIENCE_S)
        actors = [seat.name for seat in seats(APP) if seat.node == victim.node]
        _print(node="noticed", watch=watch.returncode, log=log, actors=actors)
    wait_until(lambda: is_whole(APP))
    with _jobs_under_way(driver, "vanished") as victim:
        actors = [seat.name for seat in seats(APP) if seat.node == victim.node]
        _print(node="vanished", actors=actors)
        (node,) = [node for node in cluster.worker_nodes if node.node_id == victim.node]
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


class _EightJobs:
    """Eight at once, handed to denoisers that stand still: so they begin together."""

    def __init__(self, driver: Any, name: str, number: int = 1) -> None:
        self.number = number
        self._driver = driver
        jobs = [
            make_job(f"{name}-{number}-{seed}", prompt=f"{seed} circles", steps=STEPS, seed=seed)
            for seed in range(JOBS)
        ]
        self.under_way = [(job, driver.generate.remote(job)) for job in jobs]
        wait_until(lambda: all(self.attempts(job) for job in jobs))

    def attempts(self, job: GenerationJob) -> list[Attempt]:
        return self._driver.attempts.remote(job.request_id).result(timeout_s=PATIENCE_S)

    def latest(self) -> list[Attempt]:
        return [self.attempts(job)[-1] for job, _ in self.under_way]

    def in_the_middle(self) -> list[str]:
        """The denoisers, as often as they have made a checkpoint of one and are far from done. How
        many they draw at once is up to them."""
        return [each.actor_id for each in self.latest() if 0 < each.reached < EARLY]

    @property
    def are_drawn(self) -> bool:
        return all(each.was_answered for each in self.latest())


@contextmanager
def _jobs_under_way(driver: Any, name: str) -> Iterator[Seat]:
    """Eight jobs; a denoiser that is in the middle of some is given. All denoisers stand still
    meanwhile. Eight others follow where they went past it unseen.

    Then prints what came of the jobs.
    """
    denoisers = _denoisers()
    processes = [psutil.Process(denoiser.pid) for denoiser in denoisers]
    with paused(processes):
        jobs = _EightJobs(driver, name)

    def are_caught() -> bool:
        nonlocal jobs
        if jobs.are_drawn:
            jobs = _EightJobs(driver, name, jobs.number + 1)
        return bool(jobs.in_the_middle())

    with paused_once(are_caught, processes):
        victim, _ = Counter(jobs.in_the_middle()).most_common(1)[0]
        yield next(each for each in denoisers if each.actor_id == victim)
    began = time.monotonic()
    for job, response in jobs.under_way:
        result = response.result(timeout_s=PATIENCE_S)
        _print(
            why=name,
            prompt=job.params.prompt,
            seed=job.params.seed,
            steps_run=result.images[0].steps_run,
            resumed_at=result.resumed_at,
            attempts=[dataclasses.asdict(attempt) for attempt in jobs.attempts(job)],
            done_after_s=round(time.monotonic() - began, 1),
            image=result.images[0].b64,
        )


def _add_node(cluster: Cluster, pool: str) -> str:
    """The new node's id."""
    node = cluster.add_node(
        num_cpus=0,
        num_gpus=2,
        object_store_memory=_STORE_BYTES,
        labels={"sluice-pool": pool},
        resources={"decoder": 1},
    )
    return node.node_id


def _run(app: str, folder: str, config: StagesConfig, handles: dict[str, Any]) -> Any:
    application = bind_driver(tiny_spec(folder), config, handles)
    return ray.serve.run(application, name=app, route_prefix=None)


def _denoisers() -> list[Seat]:
    return [seat for seat in seats(APP) if seat.name == "Denoiser"]


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
