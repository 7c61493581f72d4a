"""From a loaded stage and its options to a previewer, or none.

Runs in the replica, so it may import torch; knows no Ray. Unless a decoder of previews is
configured, colours are fitted to the model's own VAE, which is loaded for that and let go: asking a
`VaeDecoder` would make one stage's start wait for another's.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from deployments.options.stages import DenoiserOptions, WeightsOptions
from deployments.weights.fetch import fetch
from pipelines.catalog import ModelSpec
from pipelines.families import family_of

if TYPE_CHECKING:
    from pipelines.previews.previewer import PreviewDecoder, Previewer
    from pipelines.stages.denoiser import DenoiserStage

logger = logging.getLogger("ray.serve")


def build_previewer(
    stage: DenoiserStage, spec: ModelSpec, options: DenoiserOptions, weights: WeightsOptions
) -> Previewer | None:
    """The previewer of a replica, before its engine is built; None without one.

    Raises ConfigurationError for a `preview_decoder` that does not fit, CheckpointError.
    """
    if not options.previews:
        return None
    from pipelines.previews.previewer import LONGEST, Previewer
    from pipelines.previews.tiny_decoder import TinyDecoder

    decoder: PreviewDecoder | None
    if options.preview_decoder is not None:
        decoder = TinyDecoder.load(
            options.preview_decoder,
            latent_channels=stage.latent_channels,
            device=options.resolved_device,
            longest=LONGEST,
        )
    else:
        decoder = _fitted(stage, spec, options, weights)
    if decoder is None:
        return None
    return Previewer(decoder, stage.unpacked, device=stage.device)


def _fitted(
    stage: DenoiserStage, spec: ModelSpec, options: DenoiserOptions, weights: WeightsOptions
) -> PreviewDecoder | None:
    import torch

    from pipelines.previews.latent_rgb import fit_latent_rgb

    began, family = time.monotonic(), family_of(spec)
    folder = str(fetch(spec.source, family.decoder_files, weights))
    vae = family.load_latent_decoder(folder, device=options.resolved_device, dtype=options.dtype)
    fitted = fit_latent_rgb(stage, vae, family, guidance_scale=spec.guidance_scale)
    del vae
    if options.resolved_device == "cuda":
        torch.cuda.empty_cache()
    if fitted is None:
        logger.warning("there are no previews: what the model draws is not finite")
    else:
        logger.info("colours of previews were fitted in %.1f s", time.monotonic() - began)
    return fitted
