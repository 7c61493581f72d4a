"""The text in a file's metadata: what was drawn, for the tools of this field and to be drawn again.

    a red fox in snow                                                        the prompt
    Negative prompt: blurry                                                  if there was one
    Steps: 17, Sampler: Euler, ..., Seed: 7, Size: 64x64, Model: m, Sluice: {"prompt"%3A "a red ...

The settings, the last line, are those of the drawing: the steps that were run, this image's seed.
`Sluice` is the *record*: a JSON object with the fields of the request to `/v1/images/generations`
that draws the same file again, bit for bit, on the same weights; of pictures that it drew from,
the hashes of their files and what was made of these. Readers split settings at commas
and colons, and texts at line ends, so those are percent-encoded in it. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut, redrawn_by
from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import PictureRecipe
from pipelines.tasks import PictureRole, Task

_RECORD = ", Sluice: "
_MISTAKEN = re.compile(r"(?:negative prompt|\bsteps)(?=:)", re.IGNORECASE)
"""What readers of these texts take for the beginning of another part, wherever it stands."""

_SPLITS = str.maketrans({each: quote(each) for each in "%,:\x85\u2028\u2029"})
"""JSON escapes the other line ends itself."""


def parameters_text(
    params: GenerationParams,
    finish: FinishSpec,
    recipes: Sequence[PictureRecipe] = (),
    *,
    steps_run: int,
    cuts: Sequence[Cut],
) -> str:
    """The text of one image, of the seed in `finish`, drawn from the pictures in `recipes`.

    `steps_run` forwards have made it, its schedule being changed by `cuts`, planned or not.
    """
    lines = [_unmistakable(params.prompt)]
    if params.uses_true_cfg and params.negative_prompt:
        lines.append(f"Negative prompt: {_unmistakable(params.negative_prompt)}")
    settings = {
        "Steps": steps_run,
        "Sampler": "Euler",
        "CFG scale": _shortest(params.true_cfg_scale),
        "Distilled CFG Scale": _shortest(params.guidance_scale),
        "Seed": finish.seed,
        "Size": f"{params.width}x{params.height}",
        "Model": _quoted(finish.model),
    }
    if starts_from_image(params):
        settings["Denoising strength"] = _shortest(params.strength)
    line = ", ".join(f"{name}: {value}" for name, value in settings.items())
    fields = redrawing_fields(params, finish, recipes, cuts)
    record = json.dumps(fields, ensure_ascii=False).translate(_SPLITS)
    return "\n".join([*lines, line + _RECORD + record])


def read_record(text: str) -> Mapping[str, Any]:
    """The fields of the request that draws the image again. Raises InvalidRequest."""
    settings, found, record = text.rpartition("\n")[2].rpartition(_RECORD)
    try:
        fields = json.loads(unquote(record))
    except ValueError:
        fields = None
    if (
        not (found and settings.startswith("Steps: "))
        or not isinstance(fields, dict)
        or not fields.keys() >= {"prompt", "seed"}
    ):
        raise InvalidRequest(
            "the metadata has no whole Sluice record, by which the image could be drawn again:"
            " another program wrote the file, or its prompt was too long for a JPEG"
        )
    return fields


def without_record(settings: str) -> str:
    """The last line of a text as other tools read it: for files that hold no longer one."""
    return settings.rpartition(_RECORD)[0] or settings


def redrawing_fields(
    params: GenerationParams,
    finish: FinishSpec,
    recipes: Sequence[PictureRecipe],
    cuts: Sequence[Cut],
) -> dict[str, object]:
    """The fields of the request that draws the image again: all that decides on the file's bytes,
    and no more."""
    num_steps, planned = redrawn_by(params.num_inference_steps, cuts)
    fields: dict[str, object] = {"prompt": params.prompt}
    if params.weighs_words:
        # Also where it is off: a server may have it on by default.
        fields["prompt_weighting"] = params.prompt_weighting
    if params.uses_true_cfg:
        fields["negative_prompt"] = params.negative_prompt
        fields["true_cfg_scale"] = params.true_cfg_scale
    if finish.model:
        fields["model"] = finish.model
    fields |= {
        "size": f"{params.width}x{params.height}",
        "num_inference_steps": num_steps,
        "guidance_scale": params.guidance_scale,
        "seed": finish.seed,
    }
    if params.skips_steps:
        fields["skip_steps"] = True
    if planned:
        fields["step_cuts"] = planned
    if params.task is not Task.TEXT_TO_IMAGE:
        fields["task"] = str(params.task)
    if starts_from_image(params):
        fields["strength"] = params.strength
    if recipes:
        fields["pictures"] = [_picture(recipe) for recipe in recipes]
        fields["paste_back"] = finish.pastes_back
    fields["output_format"] = finish.output_format
    if finish.output_format != "png":
        fields["output_compression"] = finish.output_compression
    return fields


def starts_from_image(params: GenerationParams) -> bool:
    """Whether `strength` says something of it."""
    return any(picture.role is PictureRole.IMAGE for picture in params.pictures)


def _picture(recipe: PictureRecipe) -> dict[str, object]:
    """What of a recipe decides on bytes, but for what is as always. No file's id: who knows one may
    read the file."""
    use = recipe.use
    found: dict[str, object] = {"role": str(use.role), "size": f"{use.width}x{use.height}"}
    if recipe.source is not None:
        found["sha256"] = recipe.source.sha256
    if recipe.mask is not None:
        found["mask_sha256"] = recipe.mask.sha256
    told = {
        "mask_meaning": recipe.mask_meaning,
        "fit": recipe.fit,
        "padding": list(recipe.padding),
        "background": list(recipe.background),
        "kind": use.kind,
        "scale": use.scale,
        "start": use.start,
        "end": use.end,
    }
    return found | {name: value for name, value in told.items() if value != _PLAIN[name]}


_PLAIN: Mapping[str, object] = {
    "mask_meaning": "white",
    "fit": "stretch",
    "padding": [0, 0, 0, 0],
    "background": [255, 255, 255],
    "kind": "",
    "scale": 1.0,
    "start": 0.0,
    "end": 1.0,
}


def _unmistakable(prompt: str) -> str:
    """`prompt`, with a space in what would end it: "Negative prompt : x" is still the prompt."""
    return _MISTAKEN.sub(r"\g<0> ", prompt)


def _shortest(value: float) -> str:
    """A number without needless digits, but with all that tell it from its neighbours."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _quoted(value: str) -> str:
    """A setting's value as A1111 writes it: as JSON where it holds what ends one."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value
