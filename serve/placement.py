"""What a configuration would place where: the facts behind `sluice check`. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.names import StageName
from deployments.options import AutoscalingOptions, StageOptions
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from serve.app import build
from serve.config import Settings
from serve.ingress import INGRESS_NAME

BUILDER = "serve.app:build"

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One application of a configuration file.

    `overridden` names deployments with entries under Serve's own `deployments:`, which win over the
    settings and are not shown in `Placement`.
    """

    application: str
    settings: Settings
    overridden: tuple[str, ...] = ()


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


def read_configurations(path: Path) -> list[Configuration]:
    """The applications of a Serve YAML, or the one of a bare settings file; each is built once.

    Raises ConfigurationError with the reason why it would not deploy.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: must hold a mapping of settings or a Serve configuration"
        )
    if "applications" not in content:
        build({"config": str(path)})
        return [Configuration(application="default", settings=Settings.load({"config": str(path)}))]
    try:
        schema = ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from error
    return [_configuration(application.model_dump()) for application in schema.applications]


def placements(settings: Settings) -> list[Placement]:
    """Every deployment of the application, the ingress first."""
    spec = settings.model_spec()
    ingress, stages = settings.ingress, settings.stages
    low, high = _bounds(ingress.replicas, ingress.autoscaling)
    first = Placement(
        deployment=INGRESS_NAME,
        min_replicas=low,
        max_replicas=high,
        num_cpus=ingress.num_cpus,
        where=_labels(ingress.label_selector),
    )
    return [first, *(_stage(name, getattr(stages, name.key), spec) for name in StageName)]


def _configuration(application: dict[str, Any]) -> Configuration:
    name, import_path = application["name"], application["import_path"]
    if import_path != BUILDER:
        raise ConfigurationError(f"{name}: import_path is {import_path!r}; use {BUILDER!r}")
    try:
        build(application["args"])
        settings = Settings.load(application["args"])
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: args: {error.message}") from error
    overridden = tuple(deployment["name"] for deployment in application["deployments"])
    known = (INGRESS_NAME, *StageName)
    for deployment in overridden:
        if deployment not in known:
            raise ConfigurationError(
                f"{name}: deployments: none is called {deployment!r}; there are: {', '.join(known)}"
            )
    return Configuration(application=name, settings=settings, overridden=overridden)


def _stage(name: StageName, options: StageOptions, spec: ModelSpec) -> Placement:
    low, high = _bounds(options.num_replicas or 1, options.autoscaling)
    where = [options.accelerator_type or "", _labels(options.label_selector)]
    weights = spec.parameters * _BYTES[options.dtype] if name is StageName.DENOISER else None
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


def _bounds(replicas: int, autoscaling: AutoscalingOptions | None) -> tuple[int, int]:
    if autoscaling is None:
        return replicas, replicas
    return autoscaling.min_replicas, autoscaling.max_replicas


def _labels(selector: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in selector.items())
