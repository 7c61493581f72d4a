"""Reads and checks configuration files as Serve would, and stricter. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.names import INGRESS_NAME
from deployments.stage_table import FUSED
from pipelines import operator_yaml
from pipelines.errors import ConfigurationError
from serve.app import build
from serve.settings.messages import unknown_key
from serve.settings.reconfigure import check_autoscaling, check_stage, live_settings
from serve.settings.settings import Settings

BUILDER = "serve.app:build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One application of a configuration file.

    `overridden` names deployments with entries under Serve's own `deployments:`, which win over the
    settings.
    """

    application: str
    settings: Settings
    overridden: tuple[str, ...] = ()


def read_configurations(path: Path) -> list[Configuration]:
    """The applications of a Serve YAML, of the one inside a RayService, or the one of a bare
    settings file; each is built once.

    Raises ConfigurationError with the reason why it would not deploy.
    """
    content = _read_mapping(path)
    if content.get("kind") == "RayService":
        content = _inside_ray_service(path, content)
    if "applications" not in content:
        args = {"config": str(path)}
        build(args)
        return [Configuration(application="default", settings=Settings.load(args))]
    try:
        ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from error
    _refuse_ignored_keys(content)
    return [_configuration(application) for application in content["applications"]]


def _inside_ray_service(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The Serve YAML that a RayService carries as text."""
    spec: dict[str, Any] = content.get("spec") or {}
    text = spec.get("serveConfigV2")
    if not isinstance(text, str):
        raise ConfigurationError(f"{path}: spec.serveConfigV2 must hold a Serve configuration")
    try:
        content = operator_yaml.parse(text)
    except operator_yaml.YamlError as error:
        raise ConfigurationError(f"{path}: spec.serveConfigV2: {error}") from error
    return _mapping(path, content)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = operator_yaml.read(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except operator_yaml.YamlError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return _mapping(path, content)


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: must hold settings, or a Serve configuration")
    return cast("dict[str, Any]", content)


def _refuse_ignored_keys(content: Mapping[str, Any]) -> None:
    """Serve drops keys that it does not know; a mistyped one must not pass."""
    _check_keys("", content, ServeDeploySchema)
    _check_keys("http_options.", content.get("http_options") or {}, HTTPOptionsSchema)
    for application in content["applications"]:
        _check_keys("applications.", application, ServeApplicationSchema)
        deployments: list[dict[str, Any]] = application.get("deployments") or []
        for deployment in deployments:
            _check_keys("applications.deployments.", deployment, DeploymentSchema)


def _check_keys(where: str, given: Mapping[str, Any], schema: type[BaseModel]) -> None:
    known = [where + name for name in schema.model_fields]
    for key in given:
        if where + key not in known:
            raise ConfigurationError(unknown_key(where + key, known))


def _configuration(application: Mapping[str, Any]) -> Configuration:
    """One application as written; that it fits Serve's schema is known."""
    name, import_path = application.get("name", "default"), application["import_path"]
    if import_path != BUILDER:
        raise ConfigurationError(f"{name}: import_path is {import_path!r}; use {BUILDER!r}")
    args: dict[str, Any] = application.get("args") or {}
    try:
        build(args)
        settings = Settings.load(args)
    except ConfigurationError as error:
        # Of its `args`, or of the environment, which is read with them.
        raise ConfigurationError(f"{name}: {error.message}") from error
    overrides: list[dict[str, Any]] = application.get("deployments") or []
    overridden = tuple(each["name"] for each in overrides)
    known = (INGRESS_NAME, *(row.name for row in (*settings.stages.table, FUSED)))
    for deployment in overridden:
        if deployment not in known:
            raise ConfigurationError(
                f"{name}: deployments: none is called {deployment!r}; there are: {', '.join(known)}"
            )
    for each in overrides:
        try:
            _check_user_config(settings, each["name"], each.get("user_config") or {})
            if each["name"] != INGRESS_NAME and each.get("autoscaling_config"):
                check_autoscaling(each["autoscaling_config"])
        except ConfigurationError as error:
            where = f"{name}: deployments: {each['name']}"
            raise ConfigurationError(f"{where}: {error.message}") from error
    return Configuration(application=name, settings=settings, overridden=overridden)


def _check_user_config(settings: Settings, name: str, user_config: Mapping[str, Any]) -> None:
    if name == INGRESS_NAME:
        live_settings(settings, user_config)
    else:
        check_stage(settings, name, user_config)
