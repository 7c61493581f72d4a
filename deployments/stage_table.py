"""The stages of an application, one row each: what goes over all stages iterates over `STAGES`.

A new stage is a row here, its options in `StagesConfig`, its class in `pipelines.stages`, and a
shim of a few lines in `deployments.stages`. What does not follow from the row is who calls the
stage: `graph.graph`, and `pipelines.local` where it changes pixels. Shims are named by import path:
the ingress, the controller and a check of a configuration read the table without loading any of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from deployments.names import StageName

Argument = Literal["spec", "options", "weights", "storage", "config"]
"""What a shim's constructor may take, by these names: the model, the stage's own options, two
sections that stages share, or the whole `StagesConfig`. No more than it needs: a change of an
argument replaces the replicas."""

Place = Literal["before_latents", "denoiser", "after_latents"]
"""Where in the graph a stage stands. Those before and the denoiser must be up before an image has
latents; the others can start meanwhile, and grow with the images that the denoiser will send."""

Router = Literal["FinishFirstRouter", "LessBusyRouter"]
"""Which replica gets a call: a class of `deployments.routing.routers`."""

ModelPart = Literal["text_encoder", "image_encoder", "transformer", "vae"]
"""A part of the served model, whose memory its family can tell: of the VAE, `image_encoder` is the
encoder's half, `vae` the decoder's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage: its deployment's `name`, and the `key` of its options and of its handle.

    `shim` is "module:Class". `phase` is the first word of its spans and of its timings. `holds` is
    the part of the model that it computes with: the memory of other weights is not known, and a
    check of a configuration says so. One that `needs_pictures` has only to do with requests that
    come with some: others neither wake it nor wait for it.
    """

    name: str
    key: str
    shim: str
    takes: tuple[Argument, ...]
    place: Place
    phase: str
    holds: ModelPart | None = None
    needs_pictures: bool = False
    router: Router = "LessBusyRouter"

    @property
    def has_weights(self) -> bool:
        """Whether it computes with weights, so that its dtype means something."""
        return "weights" in self.takes or "config" in self.takes

    def shim_class(self) -> type[Any]:
        """The shim, imported; its module loads no torch."""
        module, _, name = self.shim.partition(":")
        return getattr(import_module(module), name)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the shim takes of all that is `given`."""
        return {name: given[name] for name in self.takes}


STAGES = (
    StageRow(
        name=str(StageName.TEXT_ENCODER),
        key="text_encoder",
        shim="deployments.stages.text_encoder:TextEncoder",
        takes=("spec", "options", "weights"),
        place="before_latents",
        phase="encode",
        holds="text_encoder",
    ),
    StageRow(
        name=str(StageName.IMAGE_ENCODER),
        key="image_encoder",
        shim="deployments.stages.image_encoder:ImageEncoder",
        takes=("spec", "options", "weights", "storage"),
        place="before_latents",
        phase="encode_image",
        holds="image_encoder",
        needs_pictures=True,
    ),
    StageRow(
        name=str(StageName.DENOISER),
        key="denoiser",
        shim="deployments.stages.denoiser:Denoiser",
        takes=("spec", "options", "weights"),
        place="denoiser",
        phase="denoise",
        holds="transformer",
        router="FinishFirstRouter",
    ),
    StageRow(
        name=str(StageName.VAE_DECODER),
        key="vae_decoder",
        shim="deployments.stages.vae_decoder:VaeDecoder",
        takes=("spec", "options", "weights"),
        place="after_latents",
        phase="decode",
        holds="vae",
    ),
    StageRow(
        name=str(StageName.SAFETY),
        key="safety",
        shim="deployments.stages.safety:SafetyClassifier",
        takes=("options", "weights"),
        place="after_latents",
        phase="safety",
    ),
    StageRow(
        name=str(StageName.FINISHER),
        key="finisher",
        shim="deployments.stages.finisher:Finisher",
        takes=("options", "storage"),
        place="after_latents",
        phase="finish",
    ),
)

FUSED = StageRow(
    name=str(StageName.FUSED),
    key="fused",
    shim="deployments.stages.fused:Fused",
    takes=("spec", "config"),
    place="denoiser",
    phase="fused",
    router="FinishFirstRouter",
)
"""All of them in one replica."""
