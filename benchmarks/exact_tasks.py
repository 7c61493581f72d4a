"""Each task that takes pictures against its diffusers pipeline: `benchmarks.exactness --tasks`.

Tiny models with random weights, one for each checkpoint that a task needs; float32 on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.contracts import Latents
from pipelines.errors import DegenerateImage
from pipelines.flux1.latents import unpack
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from pipelines.tasks import Task
from tests.oracle import Difference, compare
from tests.tiny_pictures import (
    Case,
    TinyModel,
    TinyRedux,
    controlnet,
    map_use,
    transformer,
    vae,
)

SIZES, QUICK_SIZES = [(64, 64), (64, 128), (144, 80)], [(64, 64)]
STRENGTHS, QUICK_STRENGTHS = (0.3, 0.56, 1.0), (0.56,)
_STEPS = 9


class Row(NamedTuple):
    """A task's worst image: `drawn` cases, their largest difference of latents, and of levels."""

    drawn: int
    max_latent_diff: float
    difference: Difference


def measure_tasks(folder: Path, *, quick: bool) -> dict[str, Row]:
    """By task, and "controlnet" for the two that one stands beside."""
    torch.manual_seed(0)
    shared = vae(quant_conv=False)
    models = {
        "base": TinyModel(folder / "base", transformer(doubles=2, singles=2), shared),
        "fill": TinyModel(folder / "fill", transformer(384, doubles=2, singles=2), shared),
        "control": TinyModel(folder / "control", transformer(128, doubles=2, singles=2), shared),
        "union": TinyModel(
            folder / "union",
            transformer(doubles=3, singles=2),
            shared,
            [controlnet(num_mode=3, doubles=2)],
        ),
    }
    found: dict[str, list[tuple[float, Difference]]] = {}
    for name, model, case in _cases(quick):
        pair = models[model].drawn(case), models[model].oracle(case)
        found.setdefault(name, []).append(_gap(models[model], case, *pair))
    for case, pair in _variations(folder / "redux", models["base"], quick):
        found.setdefault(Task.VARIATION, []).append(_gap(models["base"], case, *pair))
    return {
        name: Row(
            len(gaps),
            max(gap for gap, _ in gaps),
            Difference(max(d.max_abs for _, d in gaps), min(d.identical for _, d in gaps)),
        )
        for name, gaps in found.items()
    }


def as_json(rows: Mapping[str, Row]) -> dict[str, Any]:
    """As the benchmark's last line has them."""
    return {
        name: {
            "max_abs_diff": row.difference.max_abs,
            "identical_share": row.difference.identical,
            "max_latent_diff": row.max_latent_diff,
            "images": row.drawn,
        }
        for name, row in rows.items()
    }


def _cases(quick: bool) -> Iterator[tuple[str, str, Case]]:
    """(row, model, case), over sizes, strengths, masks and true guidance."""
    for height, width in QUICK_SIZES if quick else SIZES:
        size: dict[str, Any] = {"height": height, "width": width, "steps": _STEPS}
        use = map_use((height, width), kind="canny", scale=0.7, end=0.8)
        for scale in (1.0, 2.0):
            plain = Case(task=Task.EDIT, true_cfg_scale=scale, **size)
            yield Task.EDIT, "base", replace(plain, references=((64, 64),))
            yield "controlnet", "union", replace(plain, task=Task.TEXT_TO_IMAGE, maps=(use,))
            for strength in QUICK_STRENGTHS if quick else STRENGTHS:
                case = replace(plain, strength=strength, task=Task.IMAGE_TO_IMAGE)
                yield Task.IMAGE_TO_IMAGE, "base", case
                for mask in ("box", "odd", "scattered"):
                    masked = replace(case, mask=mask)
                    yield Task.INPAINT, "base", replace(masked, task=Task.INPAINT)
                    yield Task.EDIT_INPAINT, "base", replace(masked, task=Task.EDIT_INPAINT)
                    if scale == 1.0:
                        yield Task.FILL, "fill", replace(masked, task=Task.FILL)
        own = Case(task=Task.CONTROL, maps=(map_use((height, width)),), **size)
        yield Task.CONTROL, "control", own


def _variations(
    folder: Path, model: TinyModel, quick: bool
) -> Iterator[tuple[Case, tuple[torch.Tensor, torch.Tensor]]]:
    redux = TinyRedux(folder)
    encoder = ImageEncoderStage.load(str(model.folder), variations=str(redux.folder))
    for height, width in QUICK_SIZES if quick else SIZES:
        case = Case(task=Task.VARIATION, height=height, width=width, references=((64, 96),))
        embeds, pooled = redux.oracle(case.reference(0), case.positive)
        work = model.denoiser.admit(
            case.job, case.positive, None, None, encoder.encode(case.prepared)
        )
        while not work.is_done:
            model.denoiser.tick([work])
        text = PromptTensors(embeds[0], pooled[0]).conditioning(num_tokens=1)
        plain = replace(case, task=Task.TEXT_TO_IMAGE, references=(), text=text)
        yield case, (model.denoiser.finish(work).packed, model.oracle(plain))


def _gap(
    model: TinyModel, case: Case, ours: torch.Tensor, theirs: torch.Tensor
) -> tuple[float, Difference]:
    """Of latents, and of the pixels that each side's own decoder makes of its own."""
    decoder = VaeDecoderStage.load(str(model.folder))
    (image,) = decoder.decode(
        [Latents(packed=ours, height=case.height, width=case.width, steps_run=1)]
    )
    if isinstance(image, DegenerateImage):
        raise image
    difference = compare(image.pixels, _decoded(model, case, theirs))
    return float((ours - theirs).abs().max()), difference


@torch.inference_mode()
def _decoded(model: TinyModel, case: Case, latents: torch.Tensor) -> np.ndarray:
    """As every pipeline ends."""
    config = model.vae.config
    unpacked = unpack(latents[None], height=case.height, width=case.width)
    scaled = unpacked / config.scaling_factor + config.shift_factor
    pixels = model.vae.decode(scaled, return_dict=False)[0]
    values = (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)[0].float().numpy()
    return (values * 255).round().astype(np.uint8)
