"""What settings would place where: the facts behind `sluice check`. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.names import StageName
from deployments.options import AutoscalingOptions, StageOptions
from pipelines.catalog import ModelSpec
from serve.config import Settings
from serve.ingress import INGRESS_NAME

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one deployment goes: how many replicas (equal bounds: fixed), and what each takes.

    `weights_bytes` is known for the denoiser only, the catalogue counts no other weights.
    """

    deployment: str
    min_replicas: int
    max_replicas: int
    num_cpus: float
    num_gpus: float = 0.0
    device: str = "cpu"
    dtype: str | None = None
    where: str = ""
    weights_bytes: int | None = None


def placements(settings: Settings) -> list[Placement]:
    """Every deployment of the application, the ingress first."""
    spec = settings.model_spec()
    ingress, stages = settings.ingress, settings.stages
    low, high = _bounds(ingress.num_replicas, ingress.autoscaling)
    first = Placement(
        deployment=INGRESS_NAME,
        min_replicas=low,
        max_replicas=high,
        num_cpus=ingress.num_cpus,
        where=_labels(ingress.label_selector),
    )
    return [first, *(_stage(name, each, spec) for name, each in stages.deployed().items())]


def _stage(name: StageName, options: StageOptions, spec: ModelSpec) -> Placement:
    low, high = _bounds(options.num_replicas, options.autoscaling)
    where = [options.accelerator_type or "", _labels(options.label_selector)]
    denoises = name in (StageName.DENOISER, StageName.FUSED)
    weights = spec.parameters * _BYTES[options.dtype] if denoises else None
    return Placement(
        deployment=str(name),
        min_replicas=low,
        max_replicas=high,
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        device=options.resolved_device,
        dtype=None if name is StageName.FINISHER else options.dtype,
        where=" ".join(filter(None, where)),
        weights_bytes=weights,
    )


def _bounds(replicas: int | None, autoscaling: AutoscalingOptions | None) -> tuple[int, int]:
    if autoscaling is None:
        return replicas or 1, replicas or 1
    return autoscaling.min_replicas, autoscaling.max_replicas


def _labels(selector: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in selector.items())
