"""Looks into a built application, as Serve does when it deploys one."""

from __future__ import annotations

from ray.serve import Application, Deployment
from ray.serve._private.build_app import build_app


def deployments(application: Application) -> dict[str, Deployment]:
    """The application's deployments by name. Needs no Ray cluster."""
    return {each.name: each for each in build_app(application, name="default").deployments}
