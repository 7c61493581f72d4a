"""The stages, bound to their options: wiring only.

Neither weights nor torch are touched here: both are loaded in the replicas' constructors.
"""

from __future__ import annotations

from typing import Any

import ray.serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.options.stages import StagesConfig
from deployments.routing.backlog import REPORT_EVERY_S
from deployments.stage_table import StageRow
from deployments.stages.denoiser import Denoiser
from pipelines.catalog import ModelSpec


def bind_stages(
    spec: ModelSpec, config: StagesConfig, *, denoiser: type[Denoiser] | None = None
) -> dict[str, Application]:
    """The stages of `spec` by their keys, or `Fused` by its key.

    They are arguments for an ingress's `bind`: its constructor receives a handle for each. A
    subclass may take the denoiser's place.
    """
    bound: dict[str, Application] = {}
    for row, options in config.deployed(spec).items():
        cls = denoiser if denoiser is not None and row.key == "denoiser" else row.shim_class()
        decorate = ray.serve.deployment(
            name=row.name,
            request_router_config=RequestRouterConfig(**_router(row)),
            # The ingress logs each generation, once and with its outcome.
            logging_config=LoggingConfig(enable_access_log=False, encoding=config.log_encoding),
            **options.deployment_kwargs(),
        )
        bound[row.key] = decorate(cls).bind(**config.arguments(row, spec))
    return bound


def _router(row: StageRow) -> dict[str, Any]:
    router: dict[str, Any] = {
        "request_router_class": f"deployments.routing.routers:{row.router}",
    }
    if row.router == "FinishFirstRouter":  # it goes by what replicas report
        router["request_routing_stats_period_s"] = REPORT_EVERY_S
    return router
