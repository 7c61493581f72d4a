"""VaeDecoder: latents to pixels, images of one size together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployments.names import StageName
from deployments.options.stages import VaeDecoderOptions, WeightsOptions
from deployments.stages.provenance import OwnProvenance, stage_provenance
from deployments.stages.shim import BatchingShim
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from deployments.wire.packed import PackedLatents
from deployments.wire.tensors import unpack_latents
from pipelines.catalog import ModelSpec
from pipelines.contracts import DecodedImage, ServiceTerms
from pipelines.families import family_of
from pipelines.provenance import joined, of_size


class VaeDecoder(BatchingShim[VaeDecoderOptions, PackedLatents, DecodedImage]):
    """Ray Serve deployment over `VaeDecoderStage`."""

    def __init__(
        self,
        spec: ModelSpec,
        options: VaeDecoderOptions,
        weights: WeightsOptions = WeightsOptions(),
    ) -> None:
        super().__init__(StageName.VAE_DECODER, options, phase="decode")
        with self._starting():
            import torch

            from pipelines.stages.vae_decoder import VaeDecoderStage

            torch.set_num_threads(options.resolved_threads)
            self._device = options.resolved_device
            parts = family_of(spec).decoder_files
            folder = fetch(spec.source, parts, weights)
            self._stage = VaeDecoderStage.load(
                str(folder),
                family=spec.family,
                device=self._device,
                dtype=options.dtype,
                tile_from_pixels=options.tile_from_pixels,
                batch=options.max_batch_size,
                device_share=options.device_share,
            )
            self._tells_provenance(
                OwnProvenance(
                    stage_provenance(
                        "vae",
                        device=self._device,
                        dtype=options.dtype,
                        tiling=self._stage.tiling,
                    ),
                    Fingerprint(folder, parts, weights),
                )
            )
        self._start_batching(self._run, key=lambda latents: (latents.height, latents.width))

    async def decode(
        self, latents: PackedLatents, terms: ServiceTerms = ServiceTerms()
    ) -> DecodedImage:
        """The image, in the order of `terms`; `timings` gain "decode_wait" and "decode".

        Raises DegenerateImage, StageFailed.
        """
        with self._boundary.call():
            image, timings, spans = await self._submit(latents, terms)
            own = of_size(await self.provenance(), latents.height, latents.width)
            return replace(
                image,
                timings={**latents.timings, **timings},
                spans=spans,
                drawn_by=joined(latents.drawn_by, own),
            )

    def _run(self, latents: Sequence[PackedLatents]) -> Sequence[DecodedImage | Exception]:
        return self._stage.decode([unpack_latents(item, device=self._device) for item in latents])
