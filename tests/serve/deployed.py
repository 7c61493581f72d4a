"""Looks into a built application, as Serve does when it deploys one."""

from __future__ import annotations

from typing import Any

from ray.serve import Application, Deployment
from ray.serve._private.build_app import build_app


def deployments(application: Application) -> dict[str, Deployment]:
    """The application's deployments by name. Needs no Ray cluster."""
    return {each.name: each for each in build_app(application, name="default").deployments}


def resources(deployment: Deployment) -> dict[str, Any]:
    """What each replica reserves, with its label selector."""
    assert deployment.ray_actor_options is not None
    return {"num_gpus": 0, **deployment.ray_actor_options}


def replicas(deployment: Deployment) -> tuple[int, int]:
    """The smallest and the largest number of replicas."""
    config = deployment._deployment_config.autoscaling_config
    if config is None:
        assert isinstance(deployment.num_replicas, int)
        return deployment.num_replicas, deployment.num_replicas
    return config.min_replicas, config.max_replicas
