"""What drew an image: of each stage that had a part in it, what may change the bits.

A stage adds its own to what it hands on, so a file names the replicas that really drew it, whatever
else of their stage is running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipelines.tiling import Tiling

ModelPart = str
"""A part of the model: "text_encoder", "image_encoder", "transformer" or "vae"; or a model beside
it that some pictures need: "variation", "controlnet canny+depth"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProvenance:
    """One stage's part of the model, and how it computes with it.

    `weights` is the SHA-256 of its files (`deployments.weights.fingerprint`), None where they could
    not be read for that. `device` is the kind, such as "cpu AVX2" or a GPU's name. `attention`,
    `compile` and `parallel` ("tensor x ulysses") are the denoiser's. `versions` are those of the
    libraries, by name. `tiling` is by which rule a VAE works in tiles: of what drew an image, None
    unless that image was tiled.
    """

    part: ModelPart
    weights: str | None
    dtype: str
    device: str
    attention: str = ""
    compile: bool = False
    parallel: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    tiling: Tiling | None = None


Provenance = tuple[StageProvenance, ...]
"""Each stage that had a part, once, in the order in which they came to it."""


def of_size(stages: Provenance, height: int, width: int) -> Provenance:
    """`stages` as they work on a picture of this size: without a rule that does not cover it."""
    return tuple(
        stage
        if stage.tiling is None or stage.tiling.covers(height, width)
        else replace(stage, tiling=None)
        for stage in stages
    )


def joined(*parts: Provenance) -> Provenance:
    """All of `parts`; two of one part of the model differ, as where an image moved on."""
    return tuple(dict.fromkeys(stage for each in parts for stage in each))


def combined_weights(stages: Iterable[tuple[ModelPart, str | None]]) -> str | None:
    """One SHA-256 over parts and their weights in any order; None if one is not known, or none is
    given."""
    lines = sorted(set(stages), key=str)
    if not lines or any(weights is None for _, weights in lines):
        return None
    text = "".join(f"{part} {weights}\n" for part, weights in lines)
    return hashlib.sha256(text.encode()).hexdigest()
