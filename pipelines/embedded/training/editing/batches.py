"""What one step of training sees: some edits of one size and some drawings of another.

Sentences are made and encoded afresh each time, so that a pair is never worded twice the same.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.embedded.training import captions, world
from pipelines.embedded.training.editing.edits import (
    NOTHING,
    OPERATIONS,
    SHARES,
    Edit,
    Operation,
    describe_target,
)
from pipelines.embedded.training.editing.instructions import instruct
from pipelines.embedded.training.editing.pairs import Shard, Store, edit_of
from pipelines.embedded.training.flow import Prompts, draw_times
from pipelines.embedded.training.train_text import TextEncoders, clip_ids, t5_ids
from pipelines.embedded.training.world import Canvas

EDITS, DRAWINGS = 56, 48
"""How many a step has at the default size: of larger ones as many as cost the same."""

EDIT_SHARES = (0.86, 0.03, 0.03, 0.04, 0.04)
DRAWING_SHARES = (0.30, 0.10, 0.10, 0.15, 0.35)
"""How often a step has each of ``world.CANVASES``."""

EMPTY_SHARE = 0.05
"""Of the captions: the branch that classifier-free guidance needs."""

OUTLINE_SHARE, OUTLINE_TIMES = 0.45, (0.12, 0.65)
"""Drawings at the times of the last steps, where outlines are made, apart from the usual times."""

COUPLED_SHARE = 0.9
"""Of the drawings: with the others the model learns to believe a picture rather than the noise, as
it has to where it begins with one."""

TEXT_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Clean latents (n, tokens, 64), what they shall follow from, and the times to train at.

    ``jitter`` (n, 2, 3) is that of the pictures' objects, ``coupled`` (n, 2) bool says which of
    them the noise decides.
    """

    canvas: Canvas
    clean: Tensor
    reference: Tensor | None
    prompts: Prompts
    t: Tensor
    jitter: Tensor
    coupled: Tensor


class Batches:
    """Draws examples from a store, ``share`` of what a step has in all.

    Sizes come from a generator that all ranks share.
    """

    def __init__(
        self, store: Store, encoders: TextEncoders, *, seed: int, rank: int, share: float
    ) -> None:
        self._store, self._encoders, self._share = store, encoders, share
        self.generator = torch.Generator().manual_seed(seed + 1000 * (rank + 1))
        self._rng = random.Random(seed + 1000 * (rank + 1))
        self._sizes = torch.Generator().manual_seed(seed)

    def edits(self) -> Examples:
        """Pairs, with instructions."""
        canvas = self._canvas(EDIT_SHARES)
        n = self._count(EDITS, canvas, 2)
        wanted = self._rng.choices(OPERATIONS, [SHARES[operation] for operation in OPERATIONS], k=n)
        before, after, jitter, texts = [], [], [], []
        coupled = torch.zeros(n, 2, dtype=torch.bool)
        for row, operation in enumerate(wanted):
            shard = self._rng.choice(self._store.shards(canvas))
            one, other, edit = self._edit(shard, operation)
            before.append(shard.latents[one])
            after.append(shard.latents[other])
            jitter.append(shard.jitter[other])
            # All else is where the reference has it.
            coupled[row, edit.slot] = edit.operation is Operation.ADD
            texts.append(instruct(edit, self._rng).text)
        t = draw_times(n, self.generator)
        return Examples(
            canvas=canvas,
            clean=torch.stack(after).float(),
            reference=torch.stack(before).float(),
            prompts=encode_texts(self._encoders, texts),
            t=t,
            jitter=torch.stack(jitter),
            coupled=coupled,
        )

    def drawings(self) -> Examples:
        """Pictures, with captions."""
        canvas = self._canvas(DRAWING_SHARES)
        n = self._count(DRAWINGS, canvas, 1)
        latents, codes, jitter = [], [], []
        for _ in range(n):
            shard = self._rng.choice(self._store.shards(canvas))
            index = self._rng.randrange(len(shard.codes))
            latents.append(shard.latents[index])
            codes.append(shard.codes[index])
            jitter.append(shard.jitter[index])
        sentences = captions.captions(torch.stack(codes), self._rng)
        texts = [s.text if self._rng.random() >= EMPTY_SHARE else "" for s in sentences]
        low, high = OUTLINE_TIMES
        late = low + (high - low) * torch.rand(n, generator=self.generator)
        is_late = torch.rand(n, generator=self.generator) < OUTLINE_SHARE
        return Examples(
            canvas=canvas,
            clean=torch.stack(latents).float(),
            reference=None,
            prompts=encode_texts(self._encoders, texts),
            t=torch.where(is_late, late, draw_times(n, self.generator)),
            jitter=torch.stack(jitter),
            coupled=(torch.rand(n, 1, generator=self.generator) < COUPLED_SHARE).expand(n, 2),
        )

    def _edit(self, shard: Shard, operation: Operation) -> tuple[int, int, Edit]:
        """The pictures before and after, and the edit, its target described.

        Where the shard has no edit of the operation, or the target cannot be described, another.
        """
        if operation is Operation.NOTHING:
            index = self._rng.randrange(len(shard.codes))
            return index, index, NOTHING
        rows = torch.nonzero(shard.links[:, 2] == OPERATIONS.index(operation)).flatten().tolist()
        if rows:
            link = shard.links[self._rng.choice(rows)].tolist()
            scene = tuple(shard.codes[link[0]].tolist())
            edit = describe_target(scene, edit_of(link), self._rng)
            if edit is not None:
                return link[0], link[1], edit
        return self._edit(shard, self._rng.choice((Operation.BACKGROUND, Operation.RECOLOUR)))

    def _canvas(self, shares: tuple[float, ...]) -> Canvas:
        index = torch.multinomial(
            torch.tensor(shares, dtype=torch.float32), 1, generator=self._sizes
        )
        return world.CANVASES[int(index)]

    def _count(self, n: int, canvas: Canvas, pictures: int) -> int:
        """As many as cost what n of the default size do, with so many pictures each."""
        default = world.CANVASES[0].tokens * pictures + TEXT_TOKENS
        cost = canvas.tokens * pictures + TEXT_TOKENS
        return max(1, round(self._share * n * default / cost))


@torch.no_grad()
def encode_texts(encoders: TextEncoders, texts: list[str]) -> Prompts:
    """Prompts as the pipelines encode them. CLIP is causal, so less padding changes nothing."""
    device = encoders.clip.device
    pooled = encoders.clip(clip_ids(encoders, texts, longest=True).to(device)).pooler_output
    tokens = encoders.t5(t5_ids(encoders, texts).to(device)).last_hidden_state
    return Prompts(pooled=pooled, tokens=tokens)
