"""Fixtures of the deployments' tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle

from deployments.names import StageName
from deployments.options.stages import (
    DenoiserOptions,
    FinisherOptions,
    SafetyOptions,
    StagesConfig,
    TextEncoderOptions,
    VaeDecoderOptions,
)
from tests.cluster import LocalCluster, cluster
from tests.specs import tiny_spec

__all__ = ["cluster"]

GRAPH_APP = "graph-test"
"""The application of `graph_driver`."""


@pytest.fixture(scope="package")
def graph_driver(cluster: LocalCluster, dev_like: Path) -> Iterator[DeploymentHandle[Any]]:
    """A driver of all stages, which stay for all these tests.

    Who kills one waits until the application is whole again.
    """
    from tests.deployments.driver import bind_driver

    config = StagesConfig(
        text_encoder=TextEncoderOptions(health_check_period_s=1),
        denoiser=DenoiserOptions(health_check_period_s=1, calibration_s=0.1),
        vae_decoder=VaeDecoderOptions(health_check_period_s=1),
        safety=SafetyOptions(health_check_period_s=1),
        finisher=FinisherOptions(health_check_period_s=1),
    )
    application = bind_driver(tiny_spec(dev_like), config)
    yield ray.serve.run(application, name=GRAPH_APP, route_prefix=None)
    ray.serve.delete(GRAPH_APP)


@pytest.fixture(scope="package")
def other_stages(graph_driver: DeploymentHandle[Any]) -> Mapping[str, DeploymentHandle[Any]]:
    """All that run but the denoiser, by their keys, for applications with one of their own."""
    return {
        name.key: ray.serve.get_deployment_handle(name, GRAPH_APP)
        for name in StageName
        if name not in (StageName.DENOISER, StageName.FUSED, StageName.IMAGE_ENCODER)
    }
