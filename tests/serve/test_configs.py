"""The shipped configurations and their machines: valid, buildable, and made for each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray._private.node as ray_node
import ray.autoscaler
import yaml
from ray.serve import Deployment
from ray.serve._private import constants
from ray.serve.schema import ServeDeploySchema

from serve.app import build
from serve.capacity import gpus
from serve.capacity.machines import PACKING, read_machines
from serve.capacity.packing import faults, pack
from serve.capacity.placement import placements
from serve.cli.configurations import read_configurations
from serve.settings.settings import Settings
from tests.serve.deployed import deployments, replicas, resources

ROOT = Path(__file__).resolve().parents[2]
RAY_SERVICE = ROOT / "serve" / "configs" / "kuberay.yaml"
CONFIGS = sorted(set((ROOT / "serve" / "configs").glob("*.yaml")) - {RAY_SERVICE})
PROXIES = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CHECKS = "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"
GCS_NAMES = ("RAY_external_storage_namespace", "RAY_gcs_rpc_server_reconnect_timeout_s")
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())


def args_of(name: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "serve" / "configs" / f"{name}.yaml").read_text())
    return content["applications"][0]["args"]


def built(name: str) -> dict[str, Deployment]:
    return deployments(build(args_of(name)))


def test_serve_reads_how_often_it_checks_its_proxies():
    assert PROXY_CHECKS in Path(constants.__file__).read_text()
    assert constants.PROXY_HEALTH_CHECK_UNHEALTHY_THRESHOLD == 3


def test_there_are_four():
    assert [path.stem for path in CONFIGS] == ["embedded", "flux-dev", "flux-fused", "flux-schnell"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_is_a_serve_configuration_that_builds(path: Path):
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (application,) = schema.applications
    assert application.import_path == "serve.app:build"
    assert len(deployments(build(application.args))) == (2 if path.stem == "flux-fused" else 7)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_serve_gives_up_after_the_application_and_not_never(path: Path):
    content = yaml.safe_load(path.read_text())
    limits = Settings.load(args_of(path.stem)).limits
    beyond = content["http_options"]["request_timeout_s"] - limits.request_timeout_s
    assert 0 < beyond <= 60


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell", "flux-fused"])
def test_one_ingress_replica_may_die(name: str):
    ingress = built(name)["Ingress"]
    assert replicas(ingress)[0] >= 2
    assert ingress._deployment_config.health_check_period_s <= 2


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
        "ImageEncoder": 0.25,
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


def test_the_fused_one_needs_one_gpu_of_48_gb():
    (found,) = read_configurations(ROOT / "serve" / "configs" / "flux-fused.yaml")
    fused = placements(found.settings)[1]
    assert (fused.deployment, fused.num_gpus, fused.max_replicas) == ("Fused", 1, 1)
    assert 39 * 2**30 > fused.gpu_bytes > 31 * 2**30
    assert fused.gpu_bytes < (gpus.memory_bytes("L40S") or 0)


@pytest.mark.parametrize("machines", ["cluster.yaml", "serve/configs/kuberay.yaml"])
@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_the_largest_scale_fits_the_machines(name: str, machines: str):
    """With GPU memory counted, and each deployment in its own pool."""
    (found,) = read_configurations(ROOT / "serve" / "configs" / f"{name}.yaml")
    rows, cluster = placements(found.settings), read_machines(ROOT / machines)
    assert cluster.packs
    assert faults(rows, cluster) == []
    homes = pack(rows, cluster, at_most=True).homes
    pools = {row.deployment: row.selector["sluice-pool"] for row in rows}
    assert {name: [*home] for name, home in homes.items()} == {n: [p] for n, p in pools.items()}


def noticed_after_s(environment: dict[str, str]) -> float:
    """How long Ray's control service waits for a node that no longer answers."""
    period, timeout, failures = (
        float(environment[f"RAY_health_check_{name}"])
        for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    return (period + timeout) / 1000 * failures


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

    def test_serve_packs_and_the_autoscaler_knows_labels(self):
        (start,) = [line for line in CLUSTER["head_start_ray_commands"] if "ray start" in line]
        assert {"RAY_enable_autoscaler_v2=1", f"{PACKING}=1"} < set(start.split())

    def test_every_proxy_has_our_middleware(self):
        for role in ("head", "worker"):
            (start,) = [s for s in CLUSTER[f"{role}_start_ray_commands"] if "ray start" in s]
            assert f"{PROXIES}=serve.proxy:middleware" in start.replace(";", "").split()

    def test_a_machine_that_vanishes_is_noticed_in_less_than_half_a_minute(self):
        (start,) = [line for line in CLUSTER["head_start_ray_commands"] if "ray start" in line]
        settings = dict(word.rstrip(";").split("=") for word in start.split() if "RAY_" in word)
        assert noticed_after_s(settings) < 30

    def test_a_proxy_that_died_is_back_within_seconds(self):
        (start,) = [line for line in CLUSTER["head_start_ray_commands"] if "ray start" in line]
        assert f"{PROXY_CHECKS}=1" in start.split()

    def test_what_keeps_a_dead_heads_knowledge_is_named_as_ray_reads_it(self):
        text = (ROOT / "cluster.yaml").read_text()
        assert "RAY_REDIS_ADDRESS" in Path(ray_node.__file__).read_text()
        for name in ("RAY_REDIS_ADDRESS", *GCS_NAMES):
            assert f"{name}=" in text
        library = Path(ray.__file__).with_name("_raylet.so").read_bytes()
        assert all(name.encode() in library for name in GCS_NAMES)

    def test_workers_watch_for_a_spot_notice_once_ray_runs(self):
        """In the background and in a session of its own, or its shell would take it along."""
        *_, start, watch = CLUSTER["worker_start_ray_commands"]
        assert "ray start" in start
        assert watch.startswith("setsid nohup sluice drain-on-notice --cloud aws >")
        assert watch.endswith("2>&1 < /dev/null &")

    def test_comments_name_the_price_of_every_machine(self):
        text = (ROOT / "cluster.yaml").read_text()
        for name in CLUSTER["available_node_types"]:
            comment = text.partition(f"\n  {name}:\n")[0].rpartition("\n\n")[2]
            assert "an hour" in comment, name


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """Of a pod's only container, what is written there and no secret."""
    (container,) = pod["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


class TestKubeRay:
    @pytest.fixture
    def content(self) -> dict[str, Any]:
        return yaml.safe_load(RAY_SERVICE.read_text())

    @pytest.fixture
    def schema(self) -> dict[str, Any]:
        return json.loads((ROOT / "tests" / "data" / "rayservice.schema.json").read_text())

    def test_the_schema(self, content: dict[str, Any], schema: dict[str, Any]):
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.validate(content, schema)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplicas"), "none"),
            (("spec", "rayClusterConfig", "enableInTreeAutoscalling"), True),
            (("spec", "upgradeStrategy", "type"), "Rolling"),
        ],
    )
    def test_the_schema_sees_mistakes(
        self, content: dict[str, Any], schema: dict[str, Any], path: tuple[Any, ...], value: object
    ):
        level: Any = content
        for key in path[:-1]:
            level = level[key]
        level[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content, schema)

    def test_it_carries_the_configuration_for_machines_of_ones_own(self, content: dict[str, Any]):
        inner = yaml.safe_load(content["spec"]["serveConfigV2"])
        assert inner == yaml.safe_load((ROOT / "serve" / "configs" / "flux-dev.yaml").read_text())
        ServeDeploySchema.model_validate(inner)
        (found,) = read_configurations(RAY_SERVICE)
        assert found.settings == Settings.load(args_of("flux-dev"))

    def test_upgrades_wait_for_the_longest_request(self, content: dict[str, Any]):
        limit = Settings.load(args_of("flux-dev")).limits.request_timeout_s
        assert content["spec"]["rayClusterDeletionDelaySeconds"] > limit
        for group in content["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            if group["groupName"] != "codec":
                assert group["template"]["spec"]["terminationGracePeriodSeconds"] > limit

    def test_a_pod_that_goes_drains_its_node_for_most_of_its_grace(self, content: dict[str, Any]):
        for group in content["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            drain_s = float(environment(pod)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert 0.8 * pod["terminationGracePeriodSeconds"] < drain_s
            assert drain_s <= pod["terminationGracePeriodSeconds"] - 10

    def test_every_proxy_has_our_middleware(self, content: dict[str, Any]):
        cluster = content["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert environment(group["template"]["spec"])[PROXIES] == "serve.proxy:middleware"

    def test_a_pod_that_vanishes_is_noticed_in_less_than_half_a_minute(
        self, content: dict[str, Any]
    ):
        head = content["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
        assert noticed_after_s(environment(head)) < 30

    def test_a_proxy_that_died_is_back_within_seconds(self, content: dict[str, Any]):
        head = content["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
        assert environment(head)[PROXY_CHECKS] == "1"

    def test_the_redis_in_the_comment_is_right(self, schema: dict[str, Any]):
        """Uncommented, it is part of a valid RayService."""
        lines = RAY_SERVICE.read_text().splitlines()
        (first,) = [i for i, line in enumerate(lines) if "# gcsFaultToleranceOptions:" in line]
        for i in range(first, first + 4):
            lines[i] = lines[i].replace("# ", "", 1)
        content = yaml.safe_load("\n".join(lines))
        jsonschema.validate(content, schema)
        assert set(content["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]) == {
            "redisAddress",
            "redisPassword",
        }

    def test_pods_ask_for_what_they_may_have_and_tolerate_gpu_nodes(self, content: dict[str, Any]):
        cluster = content["spec"]["rayClusterConfig"]
        assert cluster["rayVersion"] == ray.__version__
        assert cluster["enableInTreeAutoscaling"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["livenessProbe"]
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            tolerated = [each["key"] for each in pod.get("tolerations", [])]
            assert tolerated == (["nvidia.com/gpu"] if has_gpu else [])
