"""Pictures of scenes that differ by one edit, encoded once: what edits and drawings train on.

Scenes come in groups with one jitter: a base, and for each operation it allows one or two scenes
that differ from it by that operation alone. Every two of these are an edit, in both directions, so
seven pictures give about eighteen. Groups are kept in shards, of one size each; a store grows by
shards while training goes on, because fresh scenes matter more than repeated ones.
"""

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.embedded.training import world
from pipelines.embedded.training.editing.edits import (
    OPERATIONS,
    SIDES,
    Edit,
    Operation,
    Scene,
    apply,
    carry_jitter,
    draw_edit,
    is_allowed,
    possible,
    thing,
)
from pipelines.embedded.training.latents import encode_images
from pipelines.embedded.training.world import Canvas

logger = logging.getLogger(__name__)

ALTERNATIVES = 2
"""How many scenes differ from a base by one operation."""

SHARD_TOKENS = 8192
"""A shard has as many pictures as have so many tokens."""

WANTED = (60_000, 8_000, 8_000, 8_000, 12_000)
"""How many pictures of each of ``world.CANVASES`` are enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Pictures of one size and the edits between them.

    ``latents`` (pictures, tokens, 64) float16, packed and normalised; ``codes`` (pictures, 6)
    int64; ``jitter`` (pictures, 2, 3) float32, where in their slots objects are and how large;
    ``links`` (edits, 8) int64: the pictures before and after, the operation, and slot, shape,
    colour, background and layout of the ``Edit``, its target not described.
    """

    latents: Tensor
    codes: Tensor
    jitter: Tensor
    links: Tensor


@dataclass(slots=True, kw_only=True)
class _Plan:
    """Scenes, the jitter of each, and the edits between them by index."""

    scenes: list[Scene]
    jitters: list[Tensor]
    links: list[list[int]]

    def add(self, scene: Scene, jitter: Tensor) -> int:
        self.scenes.append(scene)
        self.jitters.append(jitter)
        return len(self.scenes) - 1

    def link(self, before: int, after: int, edit: Edit) -> None:
        values = [edit.slot, edit.shape, edit.colour, edit.background, edit.layout]
        self.links.append([before, after, OPERATIONS.index(edit.operation), *values])


def edit_of(link: Iterable[int]) -> Edit:
    """The edit of one row of ``Shard.links``."""
    _, _, operation, slot, shape, colour, background, layout = link
    return Edit(
        operation=OPERATIONS[operation],
        slot=slot,
        shape=shape,
        colour=colour,
        background=background,
        layout=layout,
    )


def plan(n: int, canvas: Canvas, seed: int) -> _Plan:
    """At least n scenes in groups, none of them held out."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    planned = _Plan(scenes=[], jitters=[], links=[])
    while len(planned.scenes) < n:
        for base in map(tuple, world.sample_codes(64, generator).tolist()):
            _add_group(planned, base, world.draw_jitter(1, generator)[0], canvas, rng)
            if len(planned.scenes) >= n:
                break
    return planned


def build_shard(vae: AutoencoderKL, canvas: Canvas, seed: int, *, device: str = "cpu") -> Shard:
    """Plan, draw and encode one shard."""
    planned = plan(SHARD_TOKENS // canvas.tokens, canvas, seed)
    codes, jitter = torch.tensor(planned.scenes), torch.stack(planned.jitters)
    latents = []
    part = max(1, 1024 // canvas.tokens)
    for rows in torch.arange(len(codes)).split(part):
        images = world.render_with(codes[rows], jitter[rows], canvas)
        latents.append(encode_images(vae, images.to(device)).half().cpu())
    links = torch.tensor(planned.links, dtype=torch.int64)
    return Shard(latents=torch.cat(latents), codes=codes, jitter=jitter, links=links)


class Store:
    """Shards of every size, on disk and in memory.

    Several processes can share a folder: process ``rank`` of ``ranks`` has the shards whose number
    is its own modulo their count.
    """

    def __init__(self, folder: Path, vae: AutoencoderKL, *, device: str, rank: int, ranks: int):
        self._folder, self._vae, self._device = folder, vae, device
        self._rank, self._ranks = rank, ranks
        folder.mkdir(parents=True, exist_ok=True)
        self._shards: dict[Canvas, list[Shard]] = {canvas: [] for canvas in world.CANVASES}
        self._next = dict.fromkeys(world.CANVASES, rank)
        for canvas in world.CANVASES:
            while self._path(canvas).exists():
                self._keep(canvas, Shard(**load_file(self._path(canvas))))

    def shards(self, canvas: Canvas) -> list[Shard]:
        """Those of one size so far."""
        return self._shards[canvas]

    def scarcest(self) -> Canvas | None:
        """The size of which there are fewest for what is wanted; None if there are enough."""
        shares = [self._share(canvas) for canvas in world.CANVASES]
        least = min(range(len(shares)), key=shares.__getitem__)
        return world.CANVASES[least] if shares[least] < 1 else None

    def pictures(self) -> int:
        """How many there are, of all sizes."""
        return sum(len(shard.codes) for shards in self._shards.values() for shard in shards)

    def grow(self, canvas: Canvas) -> None:
        """Make one more shard of a size and keep it."""
        index = world.CANVASES.index(canvas)
        shard = build_shard(
            self._vae, canvas, 1000 * self._next[canvas] + index, device=self._device
        )
        path = self._path(canvas)
        written = path.with_suffix(".part")
        save_file({field.name: getattr(shard, field.name) for field in fields(shard)}, written)
        written.rename(path)  # so that an interrupted run leaves no half of a file
        self._keep(canvas, shard)

    def _share(self, canvas: Canvas) -> float:
        count = sum(len(shard.codes) for shard in self._shards[canvas])
        return self._ranks * count / WANTED[world.CANVASES.index(canvas)]

    def _keep(self, canvas: Canvas, shard: Shard) -> None:
        self._shards[canvas].append(shard)
        self._next[canvas] += self._ranks

    def _path(self, canvas: Canvas) -> Path:
        return self._folder / f"{canvas}-{self._next[canvas]:04d}.safetensors"


def _add_group(
    planned: _Plan, base: Scene, jitter: Tensor, canvas: Canvas, rng: random.Random
) -> None:
    """The base and its neighbours by every operation that it allows."""
    two, square = base[world.LAYOUT] >= world.ROW, canvas.height == canvas.width
    first = planned.add(base, jitter)
    for operation in possible(base, square=square):
        if operation is Operation.REMOVE:
            _add_removed(planned, base, first, jitter)
        elif operation not in (Operation.NOTHING, Operation.ADD):
            slot = rng.randrange(2) if two and operation is not Operation.BACKGROUND else 0
            _add_alternatives(planned, base, first, jitter, (operation, slot), rng)


def _add_alternatives(
    planned: _Plan,
    base: Scene,
    first: int,
    jitter: Tensor,
    what: tuple[Operation, int],
    rng: random.Random,
) -> None:
    """Scenes that differ from the base by one value; every two of them are an edit."""
    operation, slot = what
    edits = [draw_edit(base, operation, slot, rng) for _ in range(4 * ALTERNATIVES)]
    scenes = {apply(base, edit): edit for edit in edits}
    allowed = is_allowed(list(scenes), held_out=False)
    kept = [scene for scene, may in zip(scenes, allowed, strict=True) if may][:ALTERNATIVES]
    members = [(first, base)] + [(planned.add(scene, jitter), scene) for scene in kept]
    for before, _ in members:
        for after, scene in members:
            if before != after:
                planned.link(before, after, _edit_to(scene, operation, slot))


def _edit_to(scene: Scene, operation: Operation, slot: int) -> Edit:
    """The edit of an operation that makes its value what the scene has."""
    shape, colour = thing(scene, slot)
    match operation:
        case Operation.RECOLOUR:
            return Edit(operation=operation, slot=slot, colour=colour)
        case Operation.REPLACE:
            return Edit(operation=operation, slot=slot, shape=shape)
        case Operation.BACKGROUND:
            return Edit(operation=operation, background=scene[world.BACKGROUND])
        case _:
            return Edit(operation=operation, layout=scene[world.LAYOUT])


def _add_removed(planned: _Plan, base: Scene, first: int, jitter: Tensor) -> None:
    """The pair with one of its objects alone: removing the other, and adding it."""
    for slot in range(2):
        remove = Edit(operation=Operation.REMOVE, slot=slot)
        alone = apply(base, remove)
        if not is_allowed([alone], held_out=False)[0]:
            continue
        index = planned.add(alone, carry_jitter(jitter, remove))
        planned.link(first, index, remove)
        shape, colour = thing(base, slot)
        place = SIDES[base[world.LAYOUT]][slot]
        add = Edit(operation=Operation.ADD, slot=slot, shape=shape, colour=colour, layout=place)
        planned.link(index, first, add)
