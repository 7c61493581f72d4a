"""The models that Sluice knows by name: where their weights are, their defaults and limits.

Knows no torch and reads no weights, so that a configuration can be checked anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.errors import ConfigurationError
from pipelines.tasks import Task

DEFAULT_FAMILY = "flux1"
"""The family of a model that names none (`pipelines.families`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model, of a family in `pipelines.families`.

    `source` is a local folder in the diffusers format, or where `deployments.weights` fetches one
    from; those of the hub that are known here are pinned to a commit, unless the entry `moves`: its
    commit is not known here, so it follows a branch, and whoever fetches it says so; a source of
    one's own can pin it. `tasks` are those that its weights do. `guidance_embeds` tells
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
    tasks: tuple[str, ...] = (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINT)
    family: str = DEFAULT_FAMILY
    moves: bool = False
    prompt_weighting: bool = False
    """Whether prompts are read with weights of words where a request does not say. FLUX.1's are
    prose, and parentheses in them are meant as such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetSource:
    """A ControlNet's weights, in a local folder of the diffusers format, and the kinds of control
    maps that it follows. Of a union with modes, each kind's mode; of any other, None."""

    folder: str
    kinds: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOnSpec:
    """Weights that a model of their family uses beside its own: `kind` says for what.

    "controlnet": `kinds` of control maps that it follows, with the mode of each where it has modes.
    "variations": a picture as text tokens. `parameters` counts its weights; the rest is as in
    `ModelSpec`.
    """

    name: str
    source: str
    description: str
    license: str
    created: int
    kind: Literal["controlnet", "variations"]
    parameters: int
    kinds: Mapping[str, int | None] = field(default_factory=dict)
    family: str = DEFAULT_FAMILY
    moves: bool = False


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
            parameters=11_891_178_560,
        ),
        _tool(
            name="flux.1-kontext-dev",
            repository="FLUX.1-Kontext-dev",
            description="FLUX.1 Kontext [dev]: edits a picture as an instruction says.",
            created=1750896000,  # 2025-06-26
            guidance_scale=2.5,
            parameters=11_901_408_320,
            # Without a picture it draws from text, by the same pipeline.
            tasks=(Task.EDIT, Task.EDIT_INPAINT, Task.TEXT_TO_IMAGE),
        ),
        _tool(
            name="flux.1-fill-dev",
            repository="FLUX.1-Fill-dev",
            description="FLUX.1 Fill [dev]: paints inside a mask, and around a picture.",
            created=_TOOLS_CREATED,
            num_inference_steps=50,
            guidance_scale=30.0,
            parameters=11_902_391_360,
            tasks=(Task.FILL,),
        ),
        _tool(
            name="flux.1-depth-dev",
            repository="FLUX.1-Depth-dev",
            description="FLUX.1 Depth [dev]: draws what a depth map says.",
            created=_TOOLS_CREATED,
            guidance_scale=10.0,
            parameters=11_901_604_928,
            tasks=(Task.CONTROL,),
        ),
        _tool(
            name="flux.1-canny-dev",
            repository="FLUX.1-Canny-dev",
            description="FLUX.1 Canny [dev]: draws what outlines say.",
            created=_TOOLS_CREATED,
            guidance_scale=30.0,
            parameters=11_901_604_928,
            tasks=(Task.CONTROL,),
        ),
    )


_TOOLS_CREATED = 1732147200  # 2024-11-21
_TOOLS_LICENSE = "flux-1-dev-non-commercial-license"


def _tool(
    *,
    name: str,
    repository: str,
    description: str,
    created: int,
    guidance_scale: float,
    parameters: int,
    tasks: tuple[str, ...],
    num_inference_steps: int = 28,
) -> ModelSpec:
    """One of the models that came after FLUX.1-dev, of its shape but for the input's channels.

    None of them could be looked up on the hub for this entry, so their commits are not known.
    """
    return ModelSpec(
        name=name,
        source=f"hf://black-forest-labs/{repository}@main",
        description=description,
        license=_TOOLS_LICENSE,
        created=created,
        height=1024,
        width=1024,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        guidance_embeds=True,
        max_sequence_length=512,
        max_side=2048,
        parameters=parameters,
        tasks=tasks,
        moves=True,
    )


def add_ons() -> Mapping[str, AddOnSpec]:
    """Every known add-on by name."""
    known = (
        AddOnSpec(
            name="flux.1-redux-dev",
            source="hf://black-forest-labs/FLUX.1-Redux-dev@main",
            description="FLUX.1 Redux [dev]: variations of a picture, drawn by FLUX.1-dev.",
            license=_TOOLS_LICENSE,
            created=_TOOLS_CREATED,
            kind="variations",
            parameters=492_729_408,
            moves=True,
        ),
        AddOnSpec(
            name="flux.1-controlnet-union-pro-2.0",
            source="hf://Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0@main",
            description="Follows outlines, depth, poses and grey pictures, beside FLUX.1-dev.",
            license=_TOOLS_LICENSE,
            created=1744761600,  # 2025-04-16
            kind="controlnet",
            parameters=2_140_876_800,
            # Version 2.0 has no modes: it tells the kinds apart by itself.
            kinds=MappingProxyType(
                dict.fromkeys(("canny", "soft-edge", "depth", "pose", "grey"), None)
            ),
            moves=True,
        ),
    )
    return MappingProxyType({each.name: each for each in known})


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
