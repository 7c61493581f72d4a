"""Scores of edits: whether the scene that was asked for is there, and the rest left as it was.

An edit is all right if the checker reads the scene after from the picture, and the mean error of
the pixels that the edit does not touch is at most twice that of the autoencoder's round trip.
Pictures are (n, 3, h, w) float32 in [0, 1]. How they are drawn is not known here.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import max_pool2d

from pipelines.embedded.training import checker, world
from pipelines.embedded.training.editing.edits import (
    OPERATIONS,
    Operation,
    Pair,
    apply,
    carry_jitter,
    describe_target,
    draw_edit,
    is_allowed,
    possible,
    sample_pairs,
)
from pipelines.embedded.training.editing.instructions import instruct
from pipelines.embedded.training.latents import decode_latents, encode_images
from pipelines.embedded.training.world import Canvas

Editor = Callable[[Tensor, list[str], int], Tensor]
"""Edits pictures by instructions: pictures, a sentence each and a first seed give pictures."""

ALLOWED_ERROR = 2.0
"""How often the autoencoder's error the untouched part may have."""

CHAIN = 5
CHANGES = tuple(operation for operation in OPERATIONS if operation is not Operation.NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Edits to be made: pictures before and after, the untouched pixels, the error allowed there.

    ``before`` and ``after`` (n, 3, h, w), ``untouched`` (n, 1, h, w) bool, ``allowed`` (n,).
    """

    pairs: list[Pair]
    texts: list[str]
    before: Tensor
    after: Tensor
    untouched: Tensor
    allowed: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EditScores:
    """Shares of edits.

    ``edits`` are all right, ``read`` have the scene that was asked for, ``kept`` the rest as it
    was. ``one`` and ``two`` are all right by the number of objects before, ``by_operation`` by what
    was asked. ``untouched_error`` is the mean error of untouched pixels.
    """

    edits: float
    one: float
    two: float
    read: float
    kept: float
    untouched_error: float
    by_operation: dict[str, float]
    n: int


def make_exam(
    vae: AutoencoderKL,
    n: int,
    *,
    canvas: Canvas = world.CANVASES[0],
    seed: int = 77,
    held_out: bool = True,
) -> Exam:
    """n edits between held-out scenes (or between trained ones), half with two objects."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    pairs = sample_pairs(n, generator, rng, held_out=held_out, square=canvas.height == canvas.width)
    jitter = world.draw_jitter(n, generator)
    carried = [carry_jitter(own, pair.edit) for own, pair in zip(jitter, pairs, strict=True)]
    before = world.render_with(torch.tensor([pair.before for pair in pairs]), jitter, canvas)
    after = world.render_with(
        torch.tensor([pair.after for pair in pairs]), torch.stack(carried), canvas
    )
    untouched = _untouched(before, after)
    trip = round_trip(vae, after, canvas)
    own = masked_error(trip, after, untouched)
    return Exam(
        pairs=pairs,
        texts=[instruct(pair.edit, rng).text for pair in pairs],
        before=before,
        after=after,
        untouched=untouched,
        allowed=ALLOWED_ERROR * torch.maximum(own, own.mean()),
    )


def score(exam: Exam, images: Tensor) -> EditScores:
    """Count what the edited pictures got right."""
    wanted = torch.tensor([pair.after for pair in exam.pairs])
    error = masked_error(images, exam.after, exam.untouched)
    read, kept = (checker.read(images) == wanted).all(1), error <= exam.allowed
    right = read & kept
    two = world.has_two(torch.tensor([pair.before for pair in exam.pairs]))
    kinds = torch.tensor([OPERATIONS.index(pair.edit.operation) for pair in exam.pairs])
    return EditScores(
        edits=_share(right),
        one=_share(right[~two]),
        two=_share(right[two]),
        read=_share(read),
        kept=_share(kept),
        untouched_error=round(float(error.mean()), 4),
        by_operation={
            str(operation): _share(right[kinds == index])
            for index, operation in enumerate(OPERATIONS)
            if bool((kinds == index).any())
        },
        n=len(images),
    )


def chain_shares(
    edit: Editor, n: int, *, canvas: Canvas = world.CANVASES[0], seed: int = 9
) -> list[float]:
    """Edits in a row, each on the picture that the last one left: shares all right so far.

    The scenes are read back from the pictures; pixels are not compared, because by the second edit
    there is no true picture to compare with.
    """
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    codes = world.sample_codes(n, generator, two_objects=0.5, held_out=True)
    images = world.render(codes, generator, canvas)
    scenes = [tuple(code) for code in codes.tolist()]
    right, shares = torch.ones(n, dtype=torch.bool), []
    for turn in range(CHAIN):
        texts = []
        for index, scene in enumerate(scenes):
            pair = _follow(scene, rng, square=canvas.height == canvas.width)
            scenes[index] = pair.after
            texts.append(instruct(pair.edit, rng).text)
        images = edit((images * 255).round() / 255, texts, seed + 1000 * turn)
        right &= (checker.read(images) == torch.tensor(scenes)).all(1)
        shares.append(_share(right))
    return shares


def masked_error(images: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error (n,) of pictures where the mask (n, 1, h, w) says so."""
    error = (images - true).abs().mean(1, keepdim=True) * mask
    return error.sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: Tensor, canvas: Canvas) -> Tensor:
    """The round trip of pictures, back on the CPU."""
    parts = [part.to(vae.device) for part in images.split(32)]
    decoded = [decode_latents(vae, encode_images(vae, part), canvas) for part in parts]
    return torch.cat(decoded).float().cpu()


def _untouched(before: Tensor, after: Tensor) -> Tensor:
    """The pixels that an edit does not change, without those next to one that it does."""
    changed = ((before - after).abs().amax(1, keepdim=True) > 1e-3).float()
    return max_pool2d(changed, 3, 1, 1) == 0


def _follow(scene: tuple[int, ...], rng: random.Random, *, square: bool) -> Pair:
    """A random change of a scene to another that is held out, where one is found, or to any."""
    drawn = None
    for _ in range(50):
        operation = rng.choice([o for o in possible(scene, square=square) if o in CHANGES])
        slot = rng.randrange(2) if scene[world.LAYOUT] >= world.ROW else 0
        edit = describe_target(scene, draw_edit(scene, operation, slot, rng), rng)
        if edit is None:
            continue
        drawn = Pair(before=scene, after=apply(scene, edit), edit=edit)
        if is_allowed([drawn.after], held_out=True)[0]:
            break
    assert drawn is not None  # a background can always be changed
    return drawn


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4) if len(right) else 0.0
