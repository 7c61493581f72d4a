"""Fidelity and edits of a model in the FLUX.1 format, through the plain diffusers pipelines.

Scenes are held out of training, before an edit and after it, and every picture has a fixed seed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxKontextPipeline
from torch import Tensor

from pipelines.embedded.training import evaluate, world
from pipelines.embedded.training.editing.fidelity import fidelity, quantiles
from pipelines.embedded.training.editing.score import (
    CHAIN,
    Editor,
    EditScores,
    chain_shares,
    make_exam,
    score,
)
from pipelines.embedded.training.evaluate import Question

CHAIN_SHARE = 4
"""One chain for so many single edits, as a chain is five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityScores:
    """How clean the outlines of drawings are.

    ``iou_median`` and ``iou_p10`` are over the objects of one and two, ``smear`` is the mean share
    of pixels that belong to nothing, ``n`` the number of objects.
    """

    iou_median: float
    iou_p10: float
    smear: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EditEvaluation:
    """Single edits, and the shares all right after each of five in a row."""

    single: EditScores
    chain: tuple[float, ...]


def edits_by_instruction(model: Path) -> bool:
    """Whether the folder's ``sluice.json`` says that the model edits."""
    return bool(json.loads((model / "sluice.json").read_text()).get("operations"))


def evaluate_fidelity(question: Question, *, n: int) -> FidelityScores:
    """Draw n held-out prompts with one object and n with two, and fit every object's outline.

    The outline is that of the shape that was asked for: another one fits badly, and counts so.
    """
    pipeline = evaluate.load(question.model)
    overlaps, smears = [], []
    for objects in (1, 2):
        codes, prompts = evaluate.held_out_prompts(n, objects=objects)
        images = evaluate.draw(pipeline, question, prompts, first_seed=10_000 * objects)
        measured = fidelity(images, codes)
        overlaps.append(measured.iou)
        smears.append(measured.smear)
    iou = torch.cat(overlaps)
    smear = round(float(torch.cat(smears).mean()), 5)
    return FidelityScores(**quantiles(iou), smear=smear, n=len(iou))


def evaluate_edits(question: Question, *, n: int) -> EditEvaluation:
    """Make n single edits of held-out scenes, and one chain of five for every four of them."""
    pipeline = load_editor(question.model)
    edit = editor(pipeline, question)
    exam = make_exam(pipeline.vae, n, canvas=question.canvas)
    single = score(exam, edit(exam.before, exam.texts, 30_000))
    chain = chain_shares(edit, max(1, n // CHAIN_SHARE), canvas=question.canvas)
    assert len(chain) == CHAIN
    return EditEvaluation(single=single, chain=tuple(chain))


def load_editor(model: Path) -> FluxKontextPipeline:
    """The plain diffusers pipeline, without its progress bar."""
    pipeline = FluxKontextPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def editor(pipeline: FluxKontextPipeline, question: Question) -> Editor:
    """Edits pictures (n, 3, h, w) in [0, 1]; picture i has the seed ``first_seed + i``."""
    canvas = question.canvas

    def edit(images: Tensor, texts: list[str], first_seed: int) -> Tensor:
        parts = []
        for start in range(0, len(texts), question.batch):
            rows = slice(start, start + question.batch)
            seeds = range(first_seed + start, first_seed + start + len(texts[rows]))
            edited = pipeline(
                image=images[rows],  # pyright: ignore[reportArgumentType]
                prompt=texts[rows],
                height=canvas.height,
                width=canvas.width,
                max_area=canvas.height * canvas.width,
                _auto_resize=False,
                num_inference_steps=question.steps,
                guidance_scale=question.guidance,
                max_sequence_length=question.max_sequence_length,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
            ).images  # type: ignore[union-attr]
            parts.append(torch.as_tensor(edited).float().cpu())
        return torch.cat(parts)

    return edit


def summary(model: Path, *, n: int, given: dict[str, int | float]) -> dict[str, float | int]:
    """Adherence at the default size, fidelity at 64x64 and 128x128, edits where it makes them.

    ``given`` changes the model's own defaults of steps, guidance and batch.
    """
    small, large = world.CANVASES[0], world.CANVASES[4]
    question = evaluate.question_for(model, canvas=small, **given)
    shares = evaluate.evaluate(question, n=n)
    values: dict[str, float | int] = {
        "one_object": shares.one_object,
        "two_objects": shares.two_objects,
    }
    if edits_by_instruction(model):
        edited = evaluate_edits(question, n=n)
        values |= {"edits": edited.single.edits, "edit_chain5": edited.chain[-1]}
    for canvas in (small, large):
        asked = evaluate.question_for(model, canvas=canvas, **given)
        clean = evaluate_fidelity(asked, n=n)
        side = canvas.width
        values |= {f"iou_median_{side}": clean.iou_median, f"iou_p10_{side}": clean.iou_p10}
    return values | {"n": n}
