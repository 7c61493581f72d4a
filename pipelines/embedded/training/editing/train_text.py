"""Both text encoders of a model learn instructions, and keep the captions they know.

The encoders get a vocabulary with the instructions' words; the rows of words they know are kept.
"""

import json
import logging
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from pipelines.embedded.training import captions, train_text, world
from pipelines.embedded.training.budget import annealed
from pipelines.embedded.training.editing import instructions, text_codes
from pipelines.embedded.training.editing.edits import OPERATIONS, Pair, sample_pairs
from pipelines.embedded.training.muon import Muon
from pipelines.embedded.training.train_text import TextEncoders

logger = logging.getLogger(__name__)

CAPTIONS, INSTRUCTIONS = 80, 112
"""How many of each a step has."""

STEPS = 700
ACCURACY = 2000
"""How many sentences are counted at the end."""

RATES = (2e-3, 3e-3)
"""Of Muon and of AdamW."""


def train_instructions(model: Path, out: Path, *, steps: int = STEPS, seed: int = 2) -> None:
    """Go on from the encoders in ``model``; write folders and ``training.json`` into ``out``."""
    torch.manual_seed(seed)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    encoders = extended(train_text.load_encoders(model), instructions.vocabulary())
    named = [*encoders.clip.named_parameters(), *encoders.t5.named_parameters()]
    matrices = [p for name, p in named if p.ndim == 2 and train_text.in_block(name)]
    others = [p for name, p in named if p.ndim != 2 or not train_text.in_block(name)]
    optimizers = [(Muon(matrices, lr=RATES[0]), RATES[0])]
    optimizers += [(torch.optim.AdamW(others, lr=RATES[1]), RATES[1])]
    started = time.monotonic()
    for step in range(steps):
        loss = _loss(encoders, generator, rng)
        loss.backward()
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * annealed(step / steps, hold=0.35)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            scores = instruction_accuracy(encoders, n=256)
            logger.info("instructions %d loss %.4f %s", step + 1, loss.item(), scores)
    train_text.ignore_case(encoders)
    record: dict[str, object] = dict(instruction_accuracy(encoders, n=ACCURACY))
    record["caption_scores"] = train_text.text_accuracy(encoders, n=ACCURACY)
    record |= {"steps": steps, "captions": steps * (CAPTIONS + INSTRUCTIONS)}
    record["seconds"] = round(time.monotonic() - started)
    logger.info("instructions done: %s", record)
    train_text.save_encoders(encoders, out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def extended(known: TextEncoders, words: list[str]) -> TextEncoders:
    """Encoders with another vocabulary, equal to ``known`` in every word that both have."""
    encoders = train_text.build_encoders(words)
    for model, source, tokenizer, old_tokenizer in (
        (encoders.clip, known.clip, encoders.clip_tokenizer, known.clip_tokenizer),
        (encoders.t5, known.t5, encoders.t5_tokenizer, known.t5_tokenizer),
    ):
        _carry_weights(model, source, tokenizer, old_tokenizer)
    return TextEncoders(
        clip=encoders.clip.eval(),
        clip_tokenizer=encoders.clip_tokenizer,
        t5=encoders.t5.eval(),
        t5_tokenizer=encoders.t5_tokenizer,
    )


def _carry_weights(
    model: nn.Module,
    source: nn.Module,
    tokenizer: CLIPTokenizer | T5Tokenizer,
    old_tokenizer: CLIPTokenizer | T5Tokenizer,
) -> None:
    """Copy what has the same shape, and rows of embeddings by their tokens."""
    old, state = source.state_dict(), model.state_dict()
    rows, old_rows = tokenizer.get_vocab(), old_tokenizer.get_vocab()
    for name, weight in state.items():
        if weight.shape == old[name].shape:
            weight.copy_(old[name])
            continue
        weight.copy_(torch.randn_like(weight) * old[name].float().std())
        for token, row in rows.items():
            if token in old_rows:
                weight[row] = old[name][old_rows[token]].float()


def _loss(encoders: TextEncoders, generator: torch.Generator, rng: random.Random) -> Tensor:
    codes = world.sample_codes(CAPTIONS, generator, two_objects=0.7)
    sentences = captions.captions(codes, rng)
    kept = train_text.clip_loss(encoders, sentences, codes, rng)
    kept = kept + train_text.t5_loss(encoders, sentences, codes)
    pairs = sample_pairs(INSTRUCTIONS, generator, rng)
    pooled_error, token_error = _errors(encoders, pairs, rng)
    return kept + INSTRUCTIONS / CAPTIONS * (pooled_error.mean() + token_error.mean())


def _errors(encoders: TextEncoders, pairs: list[Pair], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Mean squared errors of pooled vectors (n,) and of tokens (n, T5_LENGTH)."""
    edits = [pair.edit for pair in pairs]
    sentences = [instructions.instruct(edit, rng) for edit in edits]
    texts = [sentence.text for sentence in sentences]
    pooled = encoders.clip(train_text.clip_ids(encoders, texts, longest=True)).pooler_output
    pooled_error = (pooled - text_codes.pooled_codes(edits)).square().mean(1)
    ids, tags = train_text.tagged_ids(encoders, sentences)
    hidden = encoders.t5(ids).last_hidden_state
    return pooled_error, (hidden - text_codes.token_codes(edits, tags)).square().mean(2)


@torch.no_grad()
def instruction_accuracy(encoders: TextEncoders, *, n: int, seed: int = 19) -> dict[str, object]:
    """Shares of instructions on held-out scenes that each encoder reads right.

    One wrong value of k parts moves a pooled code by 2 / k, k at most five: right is a quarter of
    that. For tokens the bound is the one of captions.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    pairs = sample_pairs(n, generator, rng, held_out=True)
    pooled_error, token_error = _errors(encoders, pairs, rng)
    clip, t5 = pooled_error < 0.1, (token_error < 0.25).all(1)
    kinds = [OPERATIONS.index(pair.edit.operation) for pair in pairs]
    by_operation = {
        str(operation): [_share(right[torch.tensor(kinds) == index]) for right in (clip, t5)]
        for index, operation in enumerate(OPERATIONS)
    }
    return {"clip": _share(clip), "t5": _share(t5), "by_operation": by_operation}


def _share(right: Tensor) -> float:
    return round(right.float().mean().item(), 4)
