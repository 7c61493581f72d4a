"""The ControlNets of a denoiser: their folders on this node, and what receipts say of them."""

from __future__ import annotations

from deployments.options.denoiser import DenoiserOptions
from deployments.options.stages import WeightsOptions
from deployments.stages.provenance import OwnProvenance, stage_provenance
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from pipelines.catalog import ControlNetSource
from pipelines.contracts import SamplingParams
from pipelines.provenance import Provenance, joined
from pipelines.tasks import PictureRole

_PARTS = (".",)


class FetchedControlNets:
    """Fetches them all. Raises CheckpointError."""

    def __init__(self, options: DenoiserOptions, weights: WeightsOptions) -> None:
        folders = [fetch(each.source, _PARTS, weights) for each in options.controlnets]
        self.sources = [
            ControlNetSource(folder=str(folder), kinds=each.kinds)
            for folder, each in zip(folders, options.controlnets, strict=True)
        ]
        self._provenances = {
            tuple(source.kinds): OwnProvenance(
                stage_provenance(
                    f"controlnet {'+'.join(source.kinds)}",
                    device=options.resolved_device,
                    dtype=options.dtype,
                    attention=options.attention,
                ),
                Fingerprint(folder, _PARTS, weights),
            )
            for folder, source in zip(folders, self.sources, strict=True)
        }

    async def known(self) -> Provenance:
        """Of all of them."""
        return joined(*[await each.known() for each in self._provenances.values()])

    async def known_of(self, sampling: SamplingParams) -> Provenance:
        """Of those that a job's control maps are followed by."""
        kinds = {use.kind for use in sampling.pictures if use.role is PictureRole.CONTROL}
        nets = [each for own, each in self._provenances.items() if kinds & set(own)]
        return joined(*[await each.known() for each in nets])
