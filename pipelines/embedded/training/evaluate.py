"""Counts how often the carried model draws what a sentence says, through plain ``FluxPipeline``.

Prompts describe held-out scenes in all trained wordings; every picture has a seed of its own, the
same in every evaluation. The checker reads the pictures without knowing the prompts.
"""

import json
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import FluxPipeline
from torch import Tensor

from pipelines.embedded.training import captions, checker, world
from pipelines.embedded.training.world import Canvas

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How to draw: the folder, the size, and what else is passed to the pipeline."""

    model: Path
    steps: int
    guidance: float
    max_sequence_length: int
    canvas: Canvas = world.CANVASES[0]
    batch: int = 32


class Interval(NamedTuple):
    """A share with its 95 % confidence interval (Wilson)."""

    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Shares of right pictures.

    ``one_object`` and ``two_objects`` count pictures with everything right, and ``*_interval`` are
    their 95 % confidence intervals; the others are by attribute, for one object (``one_*``) and for
    both of two (``two_*``). ``one_place`` is where and how large the object is, ``two_relation``
    side by side or one over the other, as asked. ``n`` prompts of each kind were drawn.
    """

    one_object: float
    one_interval: tuple[float, float]
    one_shape: float
    one_colour: float
    one_background: float
    one_place: float
    two_objects: float
    two_interval: tuple[float, float]
    two_shapes: float
    two_colours: float
    two_background: float
    two_relation: float
    n: int
    size: str
    steps: int
    guidance: float


def question_for(model: Path, **changes: int | float | Canvas) -> Question:
    """The defaults that the folder's ``sluice.json`` states, with changes."""
    defaults = json.loads((model / "sluice.json").read_text())
    question = Question(
        model=model,
        steps=defaults["num_inference_steps"],
        guidance=defaults["guidance_scale"],
        max_sequence_length=defaults["max_sequence_length"],
    )
    return replace(question, **changes)  # type: ignore[arg-type]


def evaluate(question: Question, *, n: int) -> Evaluation:
    """Draw n held-out prompts with one object and n with two, and count."""
    pipeline = load(question.model)
    one, two = (_judge(pipeline, question, n, objects) for objects in (1, 2))
    one_interval, two_interval = (wilson(int(kind.all.sum()), n) for kind in (one, two))
    return Evaluation(
        one_object=_share(one.all),
        one_interval=(one_interval.low, one_interval.high),
        one_shape=_share(one.shape),
        one_colour=_share(one.colour),
        one_background=_share(one.background),
        one_place=_share(one.layout),
        two_objects=_share(two.all),
        two_interval=(two_interval.low, two_interval.high),
        two_shapes=_share(two.shape),
        two_colours=_share(two.colour),
        two_background=_share(two.background),
        two_relation=_share(two.layout),
        n=n,
        size=str(question.canvas),
        steps=question.steps,
        guidance=question.guidance,
    )


def load(model: Path) -> FluxPipeline:
    """The plain diffusers pipeline, without its progress bar."""
    pipeline = FluxPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def held_out_prompts(n: int, *, objects: int, seed: int = 77) -> tuple[Tensor, list[str]]:
    """n held-out scenes (n, 6) with one or two objects, and a sentence for each."""
    generator, rng = torch.Generator().manual_seed(seed + objects), random.Random(seed + objects)
    codes = world.sample_codes(n, generator, two_objects=float(objects - 1), held_out=True)
    return codes, [sentence.text for sentence in captions.captions(codes, rng)]


def draw(
    pipeline: FluxPipeline, question: Question, prompts: list[str], *, first_seed: int = 0
) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1]; picture i has the seed ``first_seed + i``."""
    parts = []
    for start, texts in _chunks(prompts, question.batch):
        seeds = range(first_seed + start, first_seed + start + len(texts))
        images = pipeline(
            texts,
            height=question.canvas.height,
            width=question.canvas.width,
            num_inference_steps=question.steps,
            guidance_scale=question.guidance,
            max_sequence_length=question.max_sequence_length,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images  # type: ignore[union-attr]
        parts.append(torch.as_tensor(images).float().cpu())
    return torch.cat(parts)


def wilson(right: int, n: int, z: float = 1.96) -> Interval:
    """The share of right ones and its confidence interval."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, round(max(0.0, centre - margin), 4), round(min(1.0, centre + margin), 4))


def _judge(pipeline: FluxPipeline, question: Question, n: int, objects: int) -> checker.Verdict:
    codes, prompts = held_out_prompts(n, objects=objects)
    images = draw(pipeline, question, prompts, first_seed=10_000 * objects)
    verdict = checker.judge(images, codes)
    wrong = torch.nonzero(~verdict.all).flatten().tolist()
    for index in wrong[:10]:
        shown = checker.read(images[index : index + 1])[0]
        logger.info("wrong: %s -> %s", prompts[index], shown.tolist())
    return verdict


def _chunks(prompts: list[str], size: int) -> Iterator[tuple[int, list[str]]]:
    for start in range(0, len(prompts), size):
        yield start, prompts[start : start + size]


def _share(right: Tensor) -> float:
    return round(right.float().mean().item(), 4)
