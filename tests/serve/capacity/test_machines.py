from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.errors import ConfigurationError
from serve.capacity import gpus
from serve.capacity.machines import NodeType, machines_of, read_machines

ROOT = Path(__file__).resolve().parents[3]


def cluster_file(**changes: Any) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m7i.xlarge"}}
    pool = {
        "resources": {"CPU": 8, "GPU": 1, "nvlink": 2},
        "labels": {"pool": "a"},
        "node_config": {"InstanceType": "g6e.2xlarge"},
        "min_workers": 1,
        "max_workers": 3,
    }
    return {
        "cluster_name": "c",
        "provider": {"type": "aws"},
        "max_workers": 9,
        "head_node_type": "head",
        "available_node_types": {"head": head, "pool": pool},
        **changes,
    }


def ray_service(**changes: Any) -> dict[str, Any]:
    limits = {"cpu": "3500m", "memory": "8Gi", "nvidia.com/gpu": "2"}
    group = {
        "groupName": "pool",
        "maxReplicas": 4,
        "labels": {"pool": "a", "ray.io/accelerator-type": "H100"},
        "template": {"spec": {"containers": [{"name": "r", "resources": {"limits": limits}}]}},
    }
    head = {
        "rayStartParams": {"num-cpus": "0"},
        "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": 2}}, **changes}]}},
    }
    cluster = {"headGroupSpec": head, "workerGroupSpecs": [group]}
    return {"kind": "RayService", "spec": {"rayClusterConfig": cluster}}


def written(folder: Path, content: object) -> Path:
    path = folder / "machines.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_cluster_file(tmp_path: Path):
    found = read_machines(written(tmp_path, cluster_file()))
    assert found.types == (
        NodeType(name="head", num_cpus=0, min_nodes=1, max_nodes=1),
        NodeType(
            name="pool",
            num_cpus=8,
            num_gpus=1,
            accelerator="L40S",
            labels={"pool": "a"},
            resources={"nvlink": 2},
            min_nodes=1,
            max_nodes=3,
        ),
    )
    assert (found.max_workers, found.packs, found.is_running) == (9, False, False)
    start = ["export RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY=1; ray start --head"]
    packing = cluster_file(head_start_ray_commands=start)
    assert read_machines(written(tmp_path, packing)).packs


def test_a_ray_service(tmp_path: Path):
    found = read_machines(written(tmp_path, ray_service()))
    assert found.types == (
        NodeType(name="head", num_cpus=0, min_nodes=1, max_nodes=1),
        NodeType(
            name="pool",
            num_cpus=3.5,
            num_gpus=2,
            accelerator="H100",
            labels={"pool": "a", "ray.io/accelerator-type": "H100"},
            max_nodes=4,
        ),
    )
    assert (found.max_workers, found.packs) == (None, False)
    environment = [{"name": "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY", "value": "1"}]
    assert read_machines(written(tmp_path, ray_service(env=environment))).packs


def test_a_running_cluster():
    node = {
        "Alive": True,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 9.0, "accelerator_type:L4": 1.0},
        "Labels": {"pool": "a", "ray.io/node-id": "4f"},
    }
    found = machines_of([node, {**node, "Alive": False}])
    (only,) = found.types
    assert (only.name, only.num_cpus, only.num_gpus, only.accelerator) == ("10.0.0.1", 4, 1, "L4")
    assert (only.labels, only.min_nodes, only.max_nodes) == ({"pool": "a"}, 1, 1)
    assert found.is_running
    assert found.packs is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1, column 2: expected"),
        ("- a\n", "has neither available_node_types"),
        ("kind: RayCluster\n", "has neither available_node_types"),
        ("available_node_types: {a: {}}\n", "not as Ray wants it: KeyError"),
        ("spec: {rayClusterConfig: {headGroupSpec: 3}}\n", "not as Ray wants it"),
    ],
)
def test_what_is_none(tmp_path: Path, content: str, said: str):
    path = tmp_path / "machines.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        read_machines(path)


def test_no_file(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_machines(tmp_path / "none.yaml")


def test_every_accelerator_of_aws_has_a_known_memory():
    for family in ("g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5", "p5en", "p6-b200"):
        assert gpus.memory_bytes(gpus.of_aws_instance(f"{family}.xlarge")), family
    assert gpus.of_aws_instance("m7i.xlarge") is None
    assert gpus.memory_bytes("Trainium") is None
