"""Phase *text*: both text encoders learn, apart from any picture, what a sentence says.

CLIP's pooled vector learns a code of the whole scene, and each T5 token a code of the thing it is
about: an object word carries the object's place, shape and colour, so that attention finds what
belongs together. The codes are sums of fixed orthogonal directions, one per attribute value, so
unseen combinations look to the transformer like the ones it knows. Both are frozen afterwards.

Shapes: pooled (n, WIDTH) float32, tokens (n, T5_LENGTH, WIDTH) float32.
"""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipelines.embedded.training import captions, tokenizers, world
from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.muon import Muon

logger = logging.getLogger(__name__)

WIDTH = 96
BATCH = 192
EMPTY_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoders:
    """The two encoders with their tokenizers."""

    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizer
    t5: T5EncoderModel
    t5_tokenizer: T5Tokenizer


def build_encoders(words: Sequence[str] | None = None) -> TextEncoders:
    """Untrained encoders of three layers each, that know the captions' words or these."""
    clip_tokenizer = tokenizers.build_clip_tokenizer(words)
    t5_tokenizer = tokenizers.build_t5_tokenizer(words)
    ids = clip_tokenizer.get_vocab()
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizers.CLIP_LENGTH,
            bos_token_id=ids[tokenizers.CLIP_BOS],
            eos_token_id=ids[tokenizers.CLIP_EOS],
            pad_token_id=ids[tokenizers.CLIP_PAD],
            dtype="float32",
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=WIDTH,
            d_kv=24,
            d_ff=2 * WIDTH,
            num_layers=3,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
            dtype="float32",
        )
    )
    return TextEncoders(clip=clip, clip_tokenizer=clip_tokenizer, t5=t5, t5_tokenizer=t5_tokenizer)


def load_encoders(folder: Path) -> TextEncoders:
    """Load what ``save_encoders`` wrote, ready for inference."""
    return TextEncoders(
        clip=CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
        clip_tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        t5=T5EncoderModel.from_pretrained(folder / "text_encoder_2").eval(),
        t5_tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    )


def save_encoders(encoders: TextEncoders, folder: Path) -> None:
    """Write encoders and tokenizers into the folders that a FLUX.1 pipeline has."""
    encoders.clip.save_pretrained(folder / "text_encoder")
    encoders.clip_tokenizer.save_pretrained(folder / "tokenizer")
    encoders.t5.save_pretrained(folder / "text_encoder_2")
    encoders.t5_tokenizer.save_pretrained(folder / "tokenizer_2")


@torch.no_grad()
def encode(encoders: TextEncoders, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Pooled vectors and tokens of sentences, exactly as the diffusers pipeline makes them."""
    pooled = encoders.clip(clip_ids(encoders, texts)).pooler_output
    tokens = encoders.t5(t5_ids(encoders, texts)).last_hidden_state
    return pooled, tokens


def train_text(out: Path, *, minutes: float, seed: int = 2) -> None:
    """Train both for so many minutes and save their folders under ``out``."""
    torch.manual_seed(seed)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    encoders = build_encoders()
    parameters = [*encoders.clip.named_parameters(), *encoders.t5.named_parameters()]
    matrices = [p for name, p in parameters if p.ndim == 2 and in_block(name)]
    others = [p for name, p in parameters if p.ndim != 2 or not in_block(name)]
    optimizers = [(Muon(matrices, lr=3e-3), 3e-3), (torch.optim.AdamW(others, lr=3e-3), 3e-3)]
    budget, step = Budget(minutes=minutes), 0
    while (fraction := budget.fraction()) < 1:
        codes = world.sample_codes(BATCH, generator, two_objects=0.7)
        sentences = captions.captions(codes, rng)
        loss = clip_loss(encoders, sentences, codes, rng) + t5_loss(encoders, sentences, codes)
        loss.backward()
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * annealed(fraction)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            scores = text_accuracy(encoders, n=256)
            logger.info("text %d %.0fs loss %.4f %s", step, budget.seconds(), loss.item(), scores)
    ignore_case(encoders)
    record = text_accuracy(encoders, n=4000) | {"steps": step, "captions": step * BATCH}
    record |= {"seconds": round(budget.seconds())}
    logger.info("text done: %s", record)
    save_encoders(encoders, out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


@torch.no_grad()
def ignore_case(encoders: TextEncoders) -> None:
    """Make T5 read a word the same however it is spelt, as CLIP's tokenizer does by itself."""
    embedding = encoders.t5.get_input_embeddings().weight
    embedding.copy_(embedding[tokenizers.lower_case_ids(encoders.t5_tokenizer)])


def scene_codes(codes: Tensor) -> Tensor:
    """What CLIP's pooled vector should be for scenes (n, 6): (n, WIDTH) of unit variance."""
    basis = directions(sum(field.values for field in world.FIELDS) + 1, seed=21)
    offset, total = 0, torch.zeros(len(codes), WIDTH)
    for column, field in enumerate(world.FIELDS):
        total = total + basis[offset + codes[:, column]]
        offset += field.values
    return total * (WIDTH / len(world.FIELDS)) ** 0.5


def empty_code() -> Tensor:
    """The pooled vector of the empty sentence, away from all scenes: (WIDTH,)."""
    return directions(sum(field.values for field in world.FIELDS) + 1, seed=21)[-1] * WIDTH**0.5


def token_codes(codes: Tensor, tags: Tensor) -> Tensor:
    """What T5's tokens should be: (n, T5_LENGTH, WIDTH) for scenes (n, 6) and a tag per token.

    ``tags`` (n, T5_LENGTH) are those of ``captions``, and -1 for the end token and padding.
    """
    colours, layouts = len(world.COLOURS), len(world.LAYOUTS)
    sizes = {"place": layouts, "shape": len(world.SHAPES), "colour": colours}
    sizes |= {"background": colours, "layout": layouts, "other": 2}
    counts = list(sizes.values())
    parts = directions(sum(counts), seed=22).split(counts)
    basis = dict(zip(sizes, parts, strict=True))
    layout, ground = codes[:, world.LAYOUT], codes[:, world.BACKGROUND]
    n = len(codes)
    kinds = torch.zeros(n, 6, WIDTH)  # by tag, and last what -1 indexes: the padding
    for slot, tag in enumerate((captions.FIRST, captions.SECOND)):
        # The first of a row is where a single object on the left is, and so on.
        place = layout.clone()
        for whole, halves in ((world.ROW, ("left", "right")), (world.COLUMN, ("top", "bottom"))):
            place[layout == whole] = world.LAYOUT_NAMES.index(halves[slot])
        shape = codes[:, world.SHAPE_1 + 2 * slot] % len(world.SHAPES)
        colour = codes[:, world.COLOUR_1 + 2 * slot] % len(world.COLOURS)
        thing = basis["place"][place] + basis["shape"][shape] + basis["colour"][colour]
        kinds[:, tag] = thing / 3**0.5
    kinds[:, captions.BACKGROUND] = basis["background"][ground]
    kinds[:, captions.RELATION] = basis["layout"][layout]
    kinds[:, captions.OTHER] = basis["other"][0]
    kinds[:, -1] = basis["other"][1]
    return kinds[torch.arange(n)[:, None], tags] * WIDTH**0.5


def clip_loss(
    encoders: TextEncoders, sentences: list[captions.Caption], codes: Tensor, rng: random.Random
) -> Tensor:
    """Mean squared distance of pooled vectors from the scenes' codes, some sentences left empty."""
    empty = [rng.random() < EMPTY_SHARE for _ in sentences]
    texts = ["" if e else sentence.text for e, sentence in zip(empty, sentences, strict=True)]
    target = torch.where(torch.tensor(empty)[:, None], empty_code(), scene_codes(codes))
    pooled = encoders.clip(clip_ids(encoders, texts, longest=True)).pooler_output
    return (pooled - target).square().mean()


def t5_loss(encoders: TextEncoders, sentences: list[captions.Caption], codes: Tensor) -> Tensor:
    """Mean squared distance of every token from the code of what it is about."""
    ids, tags = tagged_ids(encoders, sentences)
    hidden = encoders.t5(ids).last_hidden_state
    return (hidden - token_codes(codes, tags)).square().mean()


@torch.no_grad()
def text_accuracy(encoders: TextEncoders, *, n: int, seed: int = 9) -> dict[str, float]:
    """Shares of held-out sentences whose code is right: all fields by CLIP, all tokens by T5."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    codes = world.sample_codes(n, generator, two_objects=0.8, held_out=True)
    sentences = captions.captions(codes, rng)
    pooled, hidden = encode(encoders, [sentence.text for sentence in sentences])
    basis = directions(sum(field.values for field in world.FIELDS) + 1, seed=21)[:-1]
    scores = (pooled @ basis.T).split([field.values for field in world.FIELDS], 1)
    read = torch.stack([score.argmax(1) for score in scores], 1)
    _, tags = tagged_ids(encoders, sentences)
    error = (hidden - token_codes(codes, tags)).square().mean(2)
    return {
        "clip": (read == codes).all(1).float().mean().item(),
        "clip_error": (pooled - scene_codes(codes)).square().mean().item(),
        "t5": (error < 0.25).all(1).float().mean().item(),
        "t5_error": error.mean().item(),
    }


def directions(count: int, *, seed: int) -> Tensor:
    """Orthonormal rows (count, WIDTH), none with a mean: a layer norm can produce their sums."""
    random_matrix = torch.randn(WIDTH, count + 1, generator=torch.Generator().manual_seed(seed))
    random_matrix[:, 0] = 1
    return torch.linalg.qr(random_matrix).Q.T[1:].contiguous()


def clip_ids(encoders: TextEncoders, texts: list[str], *, longest: bool = False) -> Tensor:
    """Token ids (n, CLIP_LENGTH), or fewer if ``longest``: to a causal encoder that is the same."""
    padding = "longest" if longest else "max_length"
    batch = encoders.clip_tokenizer(
        texts,
        padding=padding,
        max_length=tokenizers.CLIP_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids


def t5_ids(encoders: TextEncoders, texts: list[str]) -> Tensor:
    batch = encoders.t5_tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizers.T5_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids


def tagged_ids(encoders: TextEncoders, sentences: list[captions.Caption]) -> tuple[Tensor, Tensor]:
    """Token ids and the tag of each token's word, both (n, T5_LENGTH)."""
    batch = encoders.t5_tokenizer(
        [sentence.text for sentence in sentences],
        padding="max_length",
        max_length=tokenizers.T5_LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    rows = [
        [-1 if word is None else sentence.tags[word] for word in batch.word_ids(index)]
        for index, sentence in enumerate(sentences)
    ]
    return batch.input_ids, torch.tensor(rows)


def in_block(name: str) -> bool:
    """Whether a parameter is a weight inside a block, rather than an embedding or a bias table."""
    return "embedding" not in name and "shared" not in name and "relative" not in name
