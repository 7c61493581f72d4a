"""What a stage says of itself in receipts: what it computes with, and on what.

Runs in the replica, beside its model, so it may import torch.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from deployments.options.denoiser import DenoiserOptions
from deployments.weights.fingerprint import Fingerprint
from pipelines.provenance import ModelPart, Provenance, StageProvenance
from pipelines.tiling import Tiling

_LIBRARIES = ("sluice", "torch", "diffusers", "transformers")


def stage_provenance(
    part: ModelPart,
    *,
    device: str,
    dtype: str,
    attention: str = "",
    compile: bool = False,
    parallel: str = "",
    tiling: Tiling | None = None,
) -> StageProvenance:
    """That of a stage of this process, but for its weights; `device` is "cpu" or "cuda"."""
    return StageProvenance(
        part=part,
        weights=None,
        dtype=dtype,
        device=_kind_of(device),
        attention=attention,
        compile=compile,
        parallel=parallel,
        versions=tuple((name, version_of(name)) for name in _LIBRARIES),
        tiling=tiling,
    )


class OwnProvenance:
    """A stage's own provenance: whole once the fingerprint of its files is known."""

    def __init__(self, stage: StageProvenance, fingerprint: Fingerprint) -> None:
        self._stage = stage
        self._fingerprint = fingerprint
        self._known: Provenance = ()

    async def known(self) -> Provenance:
        """Of this stage alone. Waits, after a start, until its files have been read."""
        if not self._known:
            self._known = (replace(self._stage, weights=await self._fingerprint.value()),)
        return self._known


def transformer_provenance(options: DenoiserOptions, fingerprint: Fingerprint) -> OwnProvenance:
    """That of a denoiser."""
    degrees = options.parallel.degrees
    stage = stage_provenance(
        "transformer",
        device=options.resolved_device,
        dtype=options.dtype,
        attention=options.attention,
        compile=options.compile,
        parallel=f"{degrees.tensor} x {degrees.ulysses}" if options.ranks > 1 else "",
    )
    return OwnProvenance(stage, fingerprint)


def _kind_of(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def version_of(library: str) -> str:
    """The installed version, or "unknown" in a checkout that was never installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"
