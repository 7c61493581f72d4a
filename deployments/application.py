"""The stages, bound to their options: wiring only.

Neither weights nor torch are touched here: both are loaded in the replicas' constructors.
"""

from __future__ import annotations

import ray.serve
from ray.serve import Application, Deployment
from ray.serve.schema import LoggingConfig

from deployments.denoiser import Denoiser
from deployments.finisher import Finisher
from deployments.names import StageName
from deployments.options import StageOptions, StagesConfig
from deployments.safety import SafetyClassifier
from deployments.text_encoder import TextEncoder
from deployments.together import Together
from deployments.vae_decoder import VaeDecoder
from pipelines.catalog import ModelSpec


def bind_stages(spec: ModelSpec, config: StagesConfig) -> dict[str, Application]:
    """The five stages of `spec`, by the field names of `StageHandles`, or `Together` by its key.

    They are arguments for an ingress's `bind`: its constructor receives a handle for each.
    """
    if config.together:
        return {StageName.TOGETHER.key: _together(config).bind(spec, config)}
    source = spec.source
    stages = {
        StageName.TEXT_ENCODER: (TextEncoder, config.text_encoder, (source, config.text_encoder)),
        StageName.DENOISER: (Denoiser, config.denoiser, (spec, config.denoiser)),
        StageName.VAE_DECODER: (VaeDecoder, config.vae_decoder, (source, config.vae_decoder)),
        StageName.SAFETY: (SafetyClassifier, config.safety, (config.safety,)),
        StageName.FINISHER: (Finisher, config.finisher, (config.finisher, config.storage)),
    }
    return {
        name.key: _deployment(name, cls, options).bind(*arguments)
        for name, (cls, options, arguments) in stages.items()
    }


def _together(config: StagesConfig) -> Deployment:
    """One deployment that is placed as the denoiser, with the CPUs of all stages."""
    stages = (config.text_encoder, config.vae_decoder, config.safety, config.finisher)
    num_cpus = config.denoiser.num_cpus + sum(stage.num_cpus for stage in stages)
    options = config.denoiser.model_copy(update={"num_cpus": num_cpus})
    return _deployment(StageName.TOGETHER, Together, options)


def _deployment(name: StageName, cls: type, options: StageOptions) -> Deployment:
    decorate = ray.serve.deployment(
        name=str(name),
        # The ingress logs each generation, once and with its outcome.
        logging_config=LoggingConfig(enable_access_log=False),
        **options.deployment_kwargs(),
    )
    return decorate(cls)
