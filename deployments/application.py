"""The stages, bound to their options: wiring only.

Neither weights nor torch are touched here: both are loaded in the replicas' constructors.
"""

from __future__ import annotations

from typing import Any

import ray.serve
from ray.serve import Application, Deployment
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from deployments.names import StageName
from deployments.options.stages import StageOptions, StagesConfig
from deployments.routing.backlog import REPORT_EVERY_S
from deployments.stages.denoiser import Denoiser
from deployments.stages.finisher import Finisher
from deployments.stages.fused import Fused
from deployments.stages.safety import SafetyClassifier
from deployments.stages.text_encoder import TextEncoder
from deployments.stages.vae_decoder import VaeDecoder
from pipelines.catalog import ModelSpec

_FINISH_FIRST = {
    "request_router_class": "deployments.routing.routers:FinishFirstRouter",
    "request_routing_stats_period_s": REPORT_EVERY_S,
}
_LESS_BUSY = {"request_router_class": "deployments.routing.routers:LessBusyRouter"}
_ROUTERS: dict[StageName, dict[str, Any]] = {
    StageName.DENOISER: _FINISH_FIRST,
    StageName.FUSED: _FINISH_FIRST,
}


def bind_stages(
    spec: ModelSpec, config: StagesConfig, *, denoiser: type[Denoiser] = Denoiser
) -> dict[str, Application]:
    """The five stages of `spec`, by the field names of `StageHandles`, or `Fused` by its key.

    They are arguments for an ingress's `bind`: its constructor receives a handle for each. The
    `denoiser` may be a subclass.
    """
    source = spec.source
    classes = {
        StageName.TEXT_ENCODER: (TextEncoder, (source, config.text_encoder, config.weights)),
        StageName.DENOISER: (denoiser, (spec, config.denoiser, config.weights)),
        StageName.VAE_DECODER: (VaeDecoder, (source, config.vae_decoder, config.weights)),
        StageName.SAFETY: (SafetyClassifier, (config.safety, config.weights)),
        StageName.FINISHER: (Finisher, (config.finisher, config.storage)),
        StageName.FUSED: (Fused, (spec, config)),
    }
    return {
        name.key: _deployment(name, classes[name][0], options, config).bind(*classes[name][1])
        for name, options in config.deployed().items()
    }


def _deployment(
    name: StageName, cls: type, options: StageOptions, config: StagesConfig
) -> Deployment:
    decorate = ray.serve.deployment(
        name=str(name),
        request_router_config=RequestRouterConfig(**_ROUTERS.get(name, _LESS_BUSY)),
        # The ingress logs each generation, once and with its outcome.
        logging_config=LoggingConfig(enable_access_log=False, encoding=config.log_encoding),
        **options.deployment_kwargs(),
    )
    return decorate(cls)
