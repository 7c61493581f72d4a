"""The receipt in a file: what was asked for as it was resolved, and what really drew it.

    {"sluice_receipt": 1, "model": "m", "steps": 17, "prompt_tokens": 512,
     "request": {"prompt": ..., "seed": 7, ...},                    a body of /v1/images/generations
     "weights": "9f2c...", "versions": {"torch": "2.12.0", ...},                       in short
     "stages": [{"part": "transformer", "weights": "07d1...", "dtype": "bfloat16", ...}, ...]}

A stage has `tiling` (`size` of tiles, `from_pixels`) where it worked on this image in tiles.
`request` has, of an image that was drawn from pictures, their `pictures`: of each the SHA-256 of
its file, and what was made of it. The graph knows the request, and the finisher the stages, which
come with the pixels. `weights` and `versions` sum the stages up for people; whoever compares reads
the stages. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from deployments.storage.parameters import redrawing_fields
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut
from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import PictureRecipe
from pipelines.provenance import Provenance, StageProvenance, combined_weights
from pipelines.tiling import Tiling

FORMAT = 1
"""Of receipts; one that older readers would misunderstand has a higher one."""

FORMAT_WITH_MORE = 2
"""Of those that older readers would misunderstand: of an image that was drawn from pictures, of a
prompt with weights, or by a VAE in tiles. Without these it is another image."""

MAX_BYTES = 2 * 2**20
"""Of a receipt in UTF-8. One that is longer is neither written nor read."""

PNG_KEYWORD = "Sluice receipt"
"""Of the text chunk (iTXt) that has a PNG's receipt; others have it in XMP."""

_MAX_STAGES = 64
_MAX_TEXT = 256
_NOT_IN_XML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Beside what JSON escapes itself: what XML or an encoding does not hold, or readers change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt as it was read. `request` is whatever object stood there; `prompt_tokens` are those
    that the model takes of a prompt."""

    model: str
    steps: int
    prompt_tokens: int
    request: Mapping[str, Any]
    stages: Provenance

    @property
    def pictures(self) -> tuple[Mapping[str, Any], ...]:
        """What is told of each picture that it was drawn from: its role, size and SHA-256."""
        found: object = self.request.get("pictures")
        return (
            tuple(each for each in found if isinstance(each, dict))
            if isinstance(found, list)
            else ()
        )

    @property
    def weights(self) -> str | None:
        """The hash of all parts; None if one is not known."""
        return combined_weights((stage.part, stage.weights) for stage in self.stages)

    @property
    def versions(self) -> Mapping[str, str]:
        """Of sluice, torch and other packages, by name, as the denoiser's process has them."""
        return _versions(self.stages)


def receipt_text(
    params: GenerationParams,
    finish: FinishSpec,
    recipes: Sequence[PictureRecipe] = (),
    *,
    steps_run: int,
    cuts: Sequence[Cut],
) -> str:
    """The receipt of one image, of the seed in `finish`, but for the stages; as `parameters_text`
    takes it."""
    request = {
        **redrawing_fields(params, finish, recipes, cuts),
        "n": 1,
        "true_cfg_scale": params.true_cfg_scale if params.uses_true_cfg else 1.0,
        "skip_steps": params.skips_steps,
    }
    is_weighted = params.prompt_weighting and params.weighs_words
    content = {
        "sluice_receipt": FORMAT_WITH_MORE if recipes or is_weighted else FORMAT,
        "model": finish.model,
        "steps": steps_run,
        "prompt_tokens": params.max_sequence_length,
        "request": request,
    }
    return json.dumps(content, ensure_ascii=False)


def with_stages(receipt: str, stages: Provenance) -> str:
    """The whole text for the file: `receipt`, and the stages that drew the image.

    "" for one over `MAX_BYTES`.
    """
    content: dict[str, Any] = json.loads(receipt)
    content["weights"] = combined_weights((stage.part, stage.weights) for stage in stages)
    content["versions"] = _versions(stages)
    content["stages"] = [_stage_content(stage) for stage in stages]
    if any(stage.tiling is not None for stage in stages):
        content["sluice_receipt"] = FORMAT_WITH_MORE
    text = json.dumps(content, ensure_ascii=False)
    text = _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text if len(text.encode()) <= MAX_BYTES else ""


def parse_receipt(text: str) -> Receipt:
    """Raises InvalidRequest for what is no whole receipt of a format known here."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged("it is not JSON") from error
    written = content.get("sluice_receipt") if isinstance(content, dict) else None
    if not isinstance(written, int) or isinstance(written, bool):
        raise _damaged("it has no number of its format")
    if written not in (FORMAT, FORMAT_WITH_MORE):
        raise InvalidRequest(
            f"the file's receipt is of format {str(written)[:20]}, and this server reads {FORMAT}"
            f" and {FORMAT_WITH_MORE}; ask one of the version that drew it"
        )
    stages = content.get("stages")
    if not isinstance(stages, list) or len(stages) > _MAX_STAGES:
        raise _damaged("`stages` is not a short list")
    request = content.get("request")
    if not isinstance(request, dict):
        raise _damaged("`request` is not an object")
    return Receipt(
        model=_text(content, "model"),
        steps=_count(content, "steps"),
        prompt_tokens=_count(content, "prompt_tokens"),
        request=request,
        stages=tuple(_stage(stage) for stage in stages),
    )


def _stage(content: object) -> StageProvenance:
    if not isinstance(content, dict) or content.keys() | _MAY_LACK != _STAGE_FIELDS:
        raise _damaged("a stage has other fields than it should")
    versions = content["versions"]
    if not isinstance(versions, dict) or len(versions) > _MAX_STAGES:
        raise _damaged("`versions` is not a short object")
    if not isinstance(content["compile"], bool):
        raise _damaged("`compile` is not true or false")
    return StageProvenance(
        part=_text(content, "part"),
        weights=None if content["weights"] is None else _text(content, "weights"),
        dtype=_text(content, "dtype"),
        device=_text(content, "device"),
        attention=_text(content, "attention"),
        compile=content["compile"],
        parallel=_text(content, "parallel"),
        versions=tuple((name[:_MAX_TEXT], _text(versions, name)) for name in versions),
        tiling=_tiling(content.get("tiling")),
    )


def _stage_content(stage: StageProvenance) -> dict[str, Any]:
    content = {**asdict(stage), "versions": dict(stage.versions)}
    return {name: value for name, value in content.items() if name not in _MAY_LACK or value}


def _tiling(content: object) -> Tiling | None:
    if content is None:
        return None
    if not isinstance(content, dict) or content.keys() != _TILING_FIELDS:
        raise _damaged("`tiling` is not a rule of them")
    return Tiling(**{name: _count(content, name) for name in _TILING_FIELDS})


_STAGE_FIELDS = {field.name for field in fields(StageProvenance)}
_TILING_FIELDS = {field.name for field in fields(Tiling)}
_MAY_LACK = {"tiling"}
"""What a stage tells only where it means something."""


def _versions(stages: Provenance) -> dict[str, str]:
    return next((dict(stage.versions) for stage in stages if stage.part == "transformer"), {})


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _damaged(f"`{name[:_MAX_TEXT]}` is not a short text")
    return value


def _count(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _damaged(f"`{name}` is not a number of them")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _damaged(why: str) -> InvalidRequest:
    return InvalidRequest(f"the file's receipt is damaged: {why}")
