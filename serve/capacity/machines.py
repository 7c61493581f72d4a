"""The kinds of machines of a cluster: from a `cluster.yaml`, a RayService, or a running one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pipelines import operator_yaml
from pipelines.errors import ConfigurationError
from serve.capacity import gpus

ACCELERATOR_LABEL = "ray.io/accelerator-type"
PACKING = "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY"
"""If 1 where the head is started, Serve fills a node before it takes another; else it spreads."""

_GPU = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """One kind of machine: what each has, and how many there may be."""

    name: str
    num_cpus: float
    num_gpus: int = 0
    accelerator: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    min_nodes: int = 0
    max_nodes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """All that a cluster can have.

    `max_workers` bounds all kinds but the head's together, None: nothing does. `packs` tells
    whether Serve fills a node before it takes another, None: not known. One that `is_running` has
    the nodes that it has.
    """

    types: tuple[NodeType, ...]
    max_workers: int | None = None
    packs: bool | None = None
    is_running: bool = False


def read_machines(path: Path) -> Machines:
    """The machines of a file for `ray up`, or of a RayService. Raises ConfigurationError."""
    try:
        content = operator_yaml.read(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except operator_yaml.YamlError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    try:
        known = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
        if "available_node_types" in known:
            return _of_cluster_file(known)
        if "rayClusterConfig" in known.get("spec", {}):
            return _of_ray_service(known["spec"]["rayClusterConfig"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path}: not as Ray wants it: {error!r}") from error
    raise ConfigurationError(
        f"{path}: has neither available_node_types (a file for `ray up`) nor spec.rayClusterConfig"
        " (a RayService)"
    )


def machines_of(nodes: Iterable[Mapping[str, Any]]) -> Machines:
    """The machines of a running cluster, as `ray.nodes()` lists them, one kind each."""
    alive = [node for node in nodes if node["Alive"]]
    return Machines(types=tuple(_of_node(node) for node in alive), is_running=True)


def _of_cluster_file(content: Mapping[str, Any]) -> Machines:
    head = content["head_node_type"]
    types: list[NodeType] = []
    for name, kind in content["available_node_types"].items():
        labels: dict[str, str] = kind.get("labels") or {}
        resources: dict[str, int] = dict(kind["resources"])
        instance: str = kind["node_config"].get("InstanceType", "")
        num_cpus, num_gpus = resources.pop("CPU", 0), resources.pop("GPU", 0)
        types.append(
            NodeType(
                name=name,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                accelerator=labels.get(ACCELERATOR_LABEL) or gpus.of_aws_instance(instance),
                labels=labels,
                resources=resources,
                min_nodes=1 if name == head else kind.get("min_workers", 0),
                max_nodes=1 if name == head else kind.get("max_workers", content["max_workers"]),
            )
        )
    commands: list[str] = content.get("head_start_ray_commands") or []
    return Machines(
        types=tuple(types),
        max_workers=content["max_workers"],
        packs=any(f"{PACKING}=1" in command for command in commands),
    )


def _of_ray_service(cluster: Mapping[str, Any]) -> Machines:
    head = cluster["headGroupSpec"]
    groups = [{**head, "groupName": "head", "minReplicas": 1, "maxReplicas": 1}]
    groups += cluster.get("workerGroupSpecs") or []
    environment: list[dict[str, Any]] = _container(head).get("env") or []
    return Machines(
        types=tuple(_of_group(group) for group in groups),
        packs={"name": PACKING, "value": "1"} in environment,
    )


def _of_group(group: Mapping[str, Any]) -> NodeType:
    limits: dict[str, Any] = _container(group)["resources"]["limits"]
    labels: dict[str, str] = group.get("labels") or {}
    # What `ray start` is told wins over what the pod has.
    started: dict[str, str] = group.get("rayStartParams") or {}
    num_gpus: str | int = limits.get(_GPU, 0)
    return NodeType(
        name=group["groupName"],
        num_cpus=float(started.get("num-cpus", _quantity(limits["cpu"]))),
        num_gpus=int(started.get("num-gpus", num_gpus)),
        accelerator=labels.get(ACCELERATOR_LABEL),
        labels=labels,
        min_nodes=group.get("minReplicas", 0),
        max_nodes=group.get("maxReplicas", 1),
    )


def _container(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ray's own container, which is a pod's first."""
    return group["template"]["spec"]["containers"][0]


def _quantity(cpus: str | float) -> float:
    """Kubernetes' way to write CPUs: 2, "2" or "500m"."""
    text = str(cpus)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _of_node(node: Mapping[str, Any]) -> NodeType:
    resources: dict[str, float] = dict(node["Resources"])
    labels: dict[str, str] = dict(node.get("Labels") or {})
    labels.pop("ray.io/node-id", None)
    types = [name.removeprefix("accelerator_type:") for name in resources if "_type:" in name]
    return NodeType(
        name=node["NodeManagerAddress"],
        num_cpus=resources.pop("CPU", 0),
        num_gpus=int(resources.pop("GPU", 0)),
        accelerator=labels.get(ACCELERATOR_LABEL) or next(iter(types), None),
        labels=labels,
        resources=resources,
        min_nodes=1,
    )
