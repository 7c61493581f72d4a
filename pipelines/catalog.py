"""The models that Sluice knows by name: where their weights are, their defaults and limits.

Knows no torch and reads no weights, so that a configuration can be checked anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.errors import ConfigurationError
from pipelines.tasks import Task

DEFAULT_FAMILY = "flux1"
"""The family of a model that names none (`pipelines.families`)."""

DRAWS = (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINT)
"""What a model that draws from texts does with no more training: images are noised, and blended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model, of a family in `pipelines.families`.

    `source` is a local folder in the diffusers format, or where `deployments.weights` fetches one
    from; those of the hub that are known here are pinned to a commit. `guidance_embeds` tells
    whether the transformer takes a guidance scale (dev) or ignores it (schnell). Sizes are pixels;
    `parameters` counts the transformer's weights.
    """

    name: str
    source: str
    description: str
    license: str
    created: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    guidance_embeds: bool
    max_sequence_length: int
    max_side: int
    parameters: int
    max_prompt_chars: int = 8_000
    """Characters of a prompt: several times what `max_sequence_length` tokens can hold. What is
    longer is no prompt for this model, and reading it would only cost."""
    trained_sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of the pictures it was trained on, where only those draw well."""
    tasks: tuple[str, ...] = ("text-to-image",)
    family: str = DEFAULT_FAMILY


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetSource:
    """A ControlNet's weights, in a local folder of the diffusers format, and the kinds of control
    maps that it follows. Of a union with modes, each kind's mode; of any other, None."""

    folder: str
    kinds: Mapping[str, int | None]


def _embedded() -> ModelSpec:
    card = json.loads((EMBEDDED_MODEL_DIR / "sluice.json").read_text(encoding="utf-8"))
    return ModelSpec(
        name=card["name"],
        source=str(EMBEDDED_MODEL_DIR),
        description="The model that Sluice carries: coloured shapes from a sentence, on a CPU.",
        license="apache-2.0",
        created=1795219200,  # 2026-11-21
        height=card["height"],
        width=card["width"],
        num_inference_steps=card["num_inference_steps"],
        guidance_scale=card["guidance_scale"],
        guidance_embeds=True,
        max_sequence_length=card["max_sequence_length"],
        max_prompt_chars=2_000,
        max_side=512,
        tasks=DRAWS,
        parameters=card["parameters"],
        trained_sizes=tuple(_height_and_width(size) for size in card["sizes"]),
    )


def _height_and_width(size: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT"."""
    width, _, height = size.partition("x")
    return int(height), int(width)


def _known() -> tuple[ModelSpec, ...]:
    return (
        _embedded(),
        ModelSpec(
            name="flux.1-dev",
            source="hf://black-forest-labs/FLUX.1-dev@3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            description="FLUX.1 [dev], guidance-distilled, 12 B parameters.",
            license="flux-1-dev-non-commercial-license",
            created=1722470400,  # 2024-08-01
            height=1024,
            width=1024,
            num_inference_steps=28,
            guidance_scale=3.5,
            guidance_embeds=True,
            max_sequence_length=512,
            max_side=2048,
            tasks=DRAWS,
            parameters=11_901_408_320,
        ),
        ModelSpec(
            name="flux.1-schnell",
            source="hf://black-forest-labs/FLUX.1-schnell@741f7c3ce8b383c54771c7003378a50191e9efe9",
            description="FLUX.1 [schnell], step-distilled: one to four steps.",
            license="apache-2.0",
            created=1722470400,  # 2024-08-01
            height=1024,
            width=1024,
            num_inference_steps=4,
            guidance_scale=0.0,
            guidance_embeds=False,
            max_sequence_length=256,
            max_prompt_chars=4_000,
            max_side=2048,
            tasks=DRAWS,
            parameters=11_891_178_560,
        ),
    )


def models() -> Mapping[str, ModelSpec]:
    """Every known model by name."""
    return MappingProxyType({spec.name: spec for spec in _known()})


def find(name: str, *, source: str | None = None) -> ModelSpec:
    """The model called `name`, with its weights read from `source` when one is given.

    Raises ConfigurationError for a name that is not in the catalogue.
    """
    known = models()
    if name not in known:
        raise ConfigurationError(f"model: no model is called {name!r}; known: {', '.join(known)}")
    spec = known[name]
    return dataclasses.replace(spec, source=source) if source else spec
