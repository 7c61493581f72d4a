"""The shipped configurations and their machines: valid, buildable, and made for each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.serve import Deployment
from ray.serve.schema import ServeDeploySchema

from serve.app import build
from serve.config import Settings
from tests.serve.deployed import deployments, replicas, resources

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "serve" / "configs").glob("*.yaml"))
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())


def args_of(name: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "serve" / "configs" / f"{name}.yaml").read_text())
    return content["applications"][0]["args"]


def built(name: str) -> dict[str, Deployment]:
    return deployments(build(args_of(name)))


def test_there_are_three():
    assert [path.stem for path in CONFIGS] == ["embedded", "flux-dev", "flux-schnell"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_is_a_serve_configuration_that_builds(path: Path):
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (application,) = schema.applications
    assert application.import_path == "serve.app:build"
    assert len(deployments(build(application.args))) == 6


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_serve_gives_up_after_the_application(name: str):
    content = yaml.safe_load((ROOT / "serve" / "configs" / f"{name}.yaml").read_text())
    limits = Settings.load(args_of(name)).limits
    assert content["http_options"]["request_timeout_s"] > limits.request_timeout_s


def test_embedded_fits_a_laptop():
    found = built("embedded")
    assert sum(resources(each)["num_cpus"] for each in found.values()) <= 1.5
    assert all(resources(each)["num_gpus"] == 0 for each in found.values())
    assert all(replicas(each) == (1, 1) for each in found.values())


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_flux_has_an_h100_per_denoiser_and_shares_small_gpus(name: str):
    found = built(name)
    gpus = {key: resources(each)["num_gpus"] for key, each in found.items()}
    assert gpus == {
        "Ingress": 0,
        "TextEncoder": 0.6,
        "Denoiser": 1,
        "VaeDecoder": 0.4,
        "SafetyClassifier": 0,
        "Finisher": 0,
    }
    assert all(low < high for low, high in map(replicas, found.values()))
    stages = Settings.load(args_of(name)).stages
    assert stages.denoiser.resolved_device == "cuda"
    assert stages.denoiser.dtype == "bfloat16"
    assert stages.storage.kind == "s3"


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_every_replica_fits_a_machine_of_its_pool(name: str):
    pools = {
        (kind.get("labels") or {}).get("sluice-pool"): kind["resources"]
        for kind in CLUSTER["available_node_types"].values()
    }
    for deployment in built(name).values():
        options = resources(deployment)
        machine = pools[options["label_selector"]["sluice-pool"]]
        assert options["num_cpus"] <= machine["CPU"], deployment.name
        assert options["num_gpus"] <= machine.get("GPU", 0), deployment.name


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_the_largest_scale_fits_the_largest_pools(name: str):
    kinds = {
        kind["labels"]["sluice-pool"]: kind
        for kind in CLUSTER["available_node_types"].values()
        if "labels" in kind
    }
    for resource, option in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        asked = dict.fromkeys(kinds, 0.0)
        for deployment in built(name).values():
            options = resources(deployment)
            pool = options["label_selector"]["sluice-pool"]
            asked[pool] += replicas(deployment)[1] * options[option]
        for pool, kind in kinds.items():
            assert asked[pool] <= kind["max_workers"] * kind["resources"].get(resource, 0), pool


class TestCluster:
    def test_rays_own_schema(self):
        schema_file = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
        jsonschema.validate(CLUSTER, json.loads(schema_file.read_text()))

    def test_the_head_takes_no_work(self):
        head = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
        assert head["resources"] == {"CPU": 0}

    def test_pools_start_at_zero(self):
        workers = [
            kind
            for name, kind in CLUSTER["available_node_types"].items()
            if name != CLUSTER["head_node_type"]
        ]
        assert len(workers) == 3
        assert all(kind["min_workers"] == 0 for kind in workers)
        assert sum(kind["max_workers"] for kind in workers) <= CLUSTER["max_workers"]

    def test_only_what_can_be_repeated_runs_on_spot(self):
        spot = [
            name
            for name, kind in CLUSTER["available_node_types"].items()
            if "InstanceMarketOptions" in kind["node_config"]
        ]
        assert spot == ["codec"]

    def test_every_start_command_is_for_the_same_ray(self):
        version = ray.__version__
        assert f":{version}-" in CLUSTER["docker"]["image"]
