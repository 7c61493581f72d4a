"""VaeDecoder: latents to pixels, images of one size together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deployments.lifecycle.boundary import Boundary, KeepAlive, starting
from deployments.options.autoscaling import reported_targets
from deployments.options.reconfigure import taken_over
from deployments.options.stages import VaeDecoderOptions, WeightsOptions
from deployments.weights.fetch import fetch
from deployments.wire.packed import PackedLatents
from deployments.wire.tensors import unpack_latents
from pipelines.batching.batcher import Batcher
from pipelines.contracts import DecodedImage, ServiceTerms
from pipelines.tracing.open_spans import waited_and_ran


class VaeDecoder(KeepAlive):
    """Ray Serve deployment over `VaeDecoderStage`."""

    def __init__(
        self,
        source: str,
        options: VaeDecoderOptions,
        weights: WeightsOptions = WeightsOptions(),
    ) -> None:
        with starting("VaeDecoder", options):
            import torch

            from pipelines.flux1.checkpoint import VAE_PARTS
            from pipelines.stages.vae_decoder import VaeDecoderStage

            torch.set_num_threads(options.resolved_threads)
            self._device = options.resolved_device
            folder = str(fetch(source, VAE_PARTS, weights))
            self._stage = VaeDecoderStage.load(folder, device=self._device, dtype=options.dtype)
        self._options = options
        self._autoscaling = options.autoscaling
        self._boundary = Boundary("VaeDecoder")
        self._batcher: Batcher[PackedLatents, DecodedImage] = Batcher(
            self._run,
            key=lambda latents: (latents.height, latents.width),
            max_batch_size=options.max_batch_size,
            name="vae-decoder",
        )

    async def decode(
        self, latents: PackedLatents, terms: ServiceTerms = ServiceTerms()
    ) -> DecodedImage:
        """The image, in the order of `terms`; `timings` gain "decode_wait" and "decode".

        Raises DegenerateImage, StageFailed.
        """
        with self._boundary.call():
            image, waited, ran, size = await self._batcher.submit(latents, terms)
            self._boundary.took(wait=waited, run=ran)
            timings = {**latents.timings, "decode_wait": waited, "decode": ran}
            spans = waited_and_ran(
                "decode", waited, ran, batch_size=size, replica=self._boundary.replica
            )
            return replace(image, timings=timings, spans=spans)

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over what Serve's `user_config` says; see `deployments.options.reconfigure`."""
        if (options := taken_over(self._options, user_config)) is not None:
            self._autoscaling = options.autoscaling
            self._batcher.max_batch_size = options.max_batch_size

    async def ready(self) -> bool:
        """True: the constructor returns only once the weights are loaded."""
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is told for scaling: a `Demand`, and the target wait."""
        return {**self._batcher.demand._asdict(), **reported_targets(self._autoscaling)}

    def check_health(self) -> None:
        """Raises StageFailed when decoding has stopped working."""
        self._boundary.has_to_do(self._batcher.demand)
        self._boundary.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()

    def _run(self, latents: Sequence[PackedLatents]) -> Sequence[DecodedImage | Exception]:
        return self._stage.decode([unpack_latents(item, device=self._device) for item in latents])
