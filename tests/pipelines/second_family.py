"""A second family: a made-up flow transformer that differs from FLUX.1 wherever one can.

One stream of text, as long as the prompt and no longer; positions of four axes; one modulation of
five vectors, shared by all blocks, that sees two times (now and next) and no text; an image token
is one of 32 latent channels and 32 pixels wide; guidance adds on top of the prompt's velocity. Its
weights are random. `naive_image` is the oracle: one request, one step after the other, in plain
torch, sharing no code with the packed model.

Shapes:  L text tokens    S image tokens    d = 64    H = 4 heads of E = 16    C = 24 text channels
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.nn import functional

from pipelines import families
from pipelines.begin import ActiveControl, Begin
from pipelines.catalog import ModelSpec
from pipelines.contracts import (
    Conditioning,
    EncodedPicture,
    LatentJob,
    SamplingParams,
    TokenGroup,
)
from pipelines.cuts import Cut
from pipelines.errors import ConfigurationError, InvalidRequest, UnsupportedFeature
from pipelines.families import (
    EmbeddedText,
    Family,
    FlowModel,
    ImageEncoder,
    LatentDecoder,
    PromptEncoder,
    family_named,
    register,
)
from pipelines.packing.attention import backend
from pipelines.packing.layout import Layout, PackedBatch, RotaryTable, SegmentShape, make_places
from pipelines.prompts.weighting import WeightedText
from pipelines.sampling import Schedule
from pipelines.skipping import evaluated_steps, forecasts
from pipelines.tasks import Task
from pipelines.tiling import Tiling

NAME = "made-up"
PATCH, CHANNELS, WIDTH, HEADS, HEAD, TEXT, BLOCKS = 32, 32, 64, 4, 16, 24, 3
SHIFT = 3.0
CPU = torch.device("cpu")


class Weights(NamedTuple):
    """Of all: `times` (2, d), `modulate` (5 d, d), `text_in`, `image_in`, `out`, and the blocks."""

    times: torch.Tensor
    modulate: torch.Tensor
    text_in: torch.Tensor
    image_in: torch.Tensor
    out: torch.Tensor
    blocks: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], ...]


def random_weights(seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    return Weights(
        times=torch.randn(2, WIDTH, generator=generator) * 3,
        modulate=normal(5 * WIDTH, WIDTH),
        text_in=normal(WIDTH, TEXT),
        image_in=normal(WIDTH, CHANNELS),
        out=normal(CHANNELS, WIDTH),
        blocks=tuple(
            (
                normal(3 * WIDTH, WIDTH),
                normal(WIDTH, WIDTH),
                normal(2 * WIDTH, WIDTH),
                normal(WIDTH, 2 * WIDTH),
            )
            for _ in range(BLOCKS)
        ),
    )


class PackedMadeUp:
    """The family's `FlowModel`."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.device, self.dtype, self.latent_width = CPU, torch.float32, CHANNELS
        self._attend = backend("sdpa", device=CPU, dtype=torch.float32)

    @property
    def family(self) -> Family:
        return FAMILY

    def check_conditionings(self, conditionings: Sequence[Conditioning]) -> None:
        for each in conditionings:
            if each.tensors.keys() != {"words"} or each.tensors["words"].shape[-1] != TEXT:
                raise InvalidRequest("conditioning: is of another model")

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        return conditioning(0, text_tokens)

    def check_can_cut(self, param: str) -> None:
        pass

    def schedule(self, num_steps: int, image_tokens: int, skips_steps: bool) -> Schedule:
        unshifted = np.linspace(1.0, 1 / num_steps, num_steps)
        whole = _schedule(unshifted)
        if not skips_steps:
            return whole
        steps = list(evaluated_steps(num_steps))
        return Schedule(
            timesteps=whole.timesteps[steps],
            sigmas=whole.sigmas[[*steps, num_steps]],
            unshifted=unshifted[steps],
            forecasts=forecasts(whole.sigmas.tolist()),
        )

    def cut_schedule(self, before: Schedule, cut: Cut, image_tokens: int) -> Schedule:
        step, num_steps = cut
        if not 0 <= step < num_steps < before.num_steps:
            raise ValueError(f"{cut} does not shorten a schedule of {before.num_steps} steps")
        start, left = float(before.unshifted[step]), num_steps - step
        rest = np.linspace(start, start / left, left)
        return _schedule(np.concatenate([before.unshifted[:step], rest]))

    def noise(self, seed: int, height: int, width: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(FAMILY.image_tokens(height, width), CHANNELS, generator=generator)

    def check_task(self, sampling: SamplingParams) -> None:
        if sampling.task is not Task.TEXT_TO_IMAGE or sampling.pictures:
            raise UnsupportedFeature("task: takes no pictures", param="task")

    def begin(
        self,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        pictures: Sequence[EncodedPicture],
    ) -> Begin:
        raise UnsupportedFeature("task: takes no pictures", param="task")

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]:
        return sampling, []

    def control_tokens(self, sampling: SamplingParams, text_tokens: int) -> tuple[int, ...]:
        return ()

    def picture_bytes(self, sampling: SamplingParams, text_tokens: int, num_steps: int) -> int:
        return 0

    def unpacked(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents.T.reshape(CHANNELS, height // PATCH, width // PATCH)

    def rotary(
        self,
        text_tokens: int,
        height: int,
        width: int,
        references: tuple[tuple[int, int], ...] = (),
    ) -> RotaryTable:
        rows, columns = height // PATCH, width // PATCH
        ids = torch.zeros(text_tokens + rows * columns, 4)
        ids[:text_tokens, 3] = torch.arange(text_tokens)
        ids[text_tokens:, 0] = 1
        ids[text_tokens:, 1] = torch.arange(rows).repeat_interleave(columns)
        ids[text_tokens:, 2] = torch.arange(columns).repeat(rows)
        frequencies = 100.0 ** -(torch.arange(2) / 2)
        angles = (ids[:, :, None] * frequencies).flatten(1).repeat_interleave(2, dim=1)
        return RotaryTable(angles.cos(), angles.sin())

    def embed(self, conditioning: Conditioning) -> EmbeddedText:
        return EmbeddedText(
            functional.linear(conditioning.tensors["words"], self.weights.text_in), None
        )

    def modulation(
        self, schedule: Schedule, first: int, guidance_scale: float, pooled: torch.Tensor | None
    ) -> torch.Tensor:
        assert pooled is None
        pairs = torch.stack([schedule.sigmas[first:-1], schedule.sigmas[first + 1 :]], dim=1)
        embedded = functional.silu(torch.sin(pairs @ self.weights.times))
        return functional.linear(embedded, self.weights.modulate)

    def layout(self, shapes: Sequence[SegmentShape]) -> Layout:
        return Layout(
            shapes=tuple(shapes),
            groups=1,
            places=make_places(shapes, CPU),
            attention_plan=self._attend.prepare([sum(shape) for shape in shapes], CPU),
        )

    def velocity(self, batch: PackedBatch, controls: Sequence[ActiveControl] = ()) -> torch.Tensor:
        places, plan = batch.layout.places, batch.layout.attention_plan
        assert places.to_segments is not None
        assert places.owner is not None
        assert places.image_rows is not None
        x = torch.cat([batch.txt, functional.linear(batch.img, self.weights.image_in)])
        x = x[places.to_segments]
        scale, gate, mlp_scale, mlp_gate, last = batch.vec[places.owner].chunk(5, dim=1)
        cos, sin = (table[:, None] for table in batch.rope)
        for qkv, out, mlp_in, mlp_out in self.weights.blocks:
            heads = functional.linear(_norm(x) * (1 + scale), qkv).unflatten(1, (3, HEADS, HEAD))
            query, key, value = heads.unbind(1)
            attended = self._attend(_turn(query, cos, sin), _turn(key, cos, sin), value, plan)
            x = x + gate * functional.linear(attended.flatten(1), out)
            hidden = functional.silu(functional.linear(_norm(x) * (1 + mlp_scale), mlp_in))
            x = x + mlp_gate * functional.linear(hidden, mlp_out)
        return functional.linear((_norm(x) * (1 + last))[places.image_rows], self.weights.out)

    def guide(self, positive: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
        return positive + scale * (positive - negative)

    def trajectory_bytes(
        self, shapes: Sequence[SegmentShape], *, num_steps: int, skips_steps: bool
    ) -> int:
        text = sum(shape.text for shape in shapes)
        return 4 * (text * WIDTH + shapes[0].image * CHANNELS + num_steps * 5 * WIDTH)

    def tick_bytes(self, tokens: int) -> int:
        return 4 * tokens * 16 * WIDTH


def _schedule(unshifted: np.ndarray) -> Schedule:
    shifted = SHIFT * unshifted / (1 + (SHIFT - 1) * unshifted)
    sigmas = torch.from_numpy(np.append(shifted, 0.0)).float()
    return Schedule(timesteps=sigmas[:-1], sigmas=sigmas, unshifted=unshifted)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, (x.shape[-1],))


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate neighbouring pairs of (T, H, E)."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-imaginary, real], dim=-1).flatten(-2) * sin


def conditioning(seed: int, tokens: int) -> Conditioning:
    """Random text."""
    generator = torch.Generator().manual_seed(seed)
    return _conditioning(torch.randn(tokens, TEXT, generator=generator))


def _conditioning(words: torch.Tensor) -> Conditioning:
    """Of `words` (L, 24), each a token; nothing is pooled."""
    return Conditioning(
        tensors={"words": words},
        groups=(TokenGroup("text", len(words)),),
        num_tokens=len(words),
    )


class Words:
    """The family's `PromptEncoder`: a token for each word, and no padding."""

    def encode(self, texts: Sequence[WeightedText], length: int) -> list[Conditioning]:
        return [self._encode(each.text.split()[:length] or [""]) for each in texts]

    def blank(self, length: int) -> Conditioning:
        return _conditioning(torch.zeros(1, TEXT))

    def _encode(self, words: list[str]) -> Conditioning:
        each = [conditioning(zlib.crc32(word.encode()), 1) for word in words]
        return _conditioning(torch.cat([item.tensors["words"] for item in each]))


class Squares:
    """The family's `LatentDecoder`: a token is a square of one colour."""

    device = CPU
    tile_size = 0

    def batch_bytes(self, batch: int, pixels: int) -> int:
        return 12 * batch * pixels

    def decode(
        self, latents: Sequence[torch.Tensor], height: int, width: int, *, tiled: bool = False
    ) -> torch.Tensor:
        assert not tiled
        colours = torch.stack(list(latents))[:, :, :3].tanh().transpose(1, 2)
        squares = colours.unflatten(2, (height // PATCH, width // PATCH))
        return squares.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


class Parts(NamedTuple):
    """The family's `ModelParts`: enough for plans of memory."""

    text_weights: int = 0
    transformer_weights: int = 60_000
    decoder_weights: int = 0
    encoder_weights: int = 0
    heads: int = HEADS
    tile_size: int = 0

    def encode_bytes(self, *, batch: int, tokens: int) -> int:
        return 4 * batch * tokens * TEXT

    def decode_bytes(
        self, *, batch: int, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        return 3 * batch * pixels * itemsize

    def encode_image_bytes(
        self, *, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        return 3 * pixels * itemsize

    def tick_bytes(self, *, tokens: int, itemsize: int, tensor: int, ulysses: int) -> int:
        return tokens * 16 * WIDTH * itemsize

    def trajectory_bytes(self, **shape: Any) -> int:
        return (shape["text"] + shape["image"]) * WIDTH * shape["itemsize"]

    def first_rank_weights(self, tensor: int) -> int:
        return self.transformer_weights


def _load_words(source: str, *, device: str, dtype: str) -> PromptEncoder:
    return Words()


def _load_model(
    source: str, *, device: str, dtype: str, attention: str = "sdpa", compile: bool = False
) -> FlowModel:
    return PackedMadeUp(random_weights())


def _load_squares(source: str, *, device: str, dtype: str) -> LatentDecoder:
    return Squares()


def _load_no_encoder(source: str, **options: Any) -> ImageEncoder:
    raise ConfigurationError("task: takes no pictures")


FAMILY = Family(
    name=NAME,
    size_multiple=PATCH,
    text_files=(),
    transformer_files=(),
    decoder_files=(),
    encoder_files=(),
    load_prompt_encoder=_load_words,
    load_flow_model=_load_model,
    load_latent_decoder=_load_squares,
    load_image_encoder=_load_no_encoder,
    parts_of=lambda spec: Parts(),
    shards=False,
)


@contextmanager
def registered() -> Iterator[None]:
    """The family is known within, and no longer."""
    with mock.patch.dict(families._IMPORT_PATHS):
        family_named.cache_clear()
        register(NAME, f"{__name__}:FAMILY")
        yield
    family_named.cache_clear()


def made_up_spec(source: str = "nowhere") -> ModelSpec:
    return ModelSpec(
        name="made-up-1",
        source=source,
        description="A model of the tests.",
        license="apache-2.0",
        created=0,
        height=64,
        width=96,
        num_inference_steps=4,
        guidance_scale=1.0,
        guidance_embeds=False,
        max_sequence_length=16,
        max_side=512,
        parameters=60_000,
        family=NAME,
    )


# The oracle: nothing of the above but the numbers of `Weights`.


def naive_velocity(
    w: Weights, latents: torch.Tensor, text: torch.Tensor, height: int, width: int, *times: float
) -> torch.Tensor:
    """The velocity (S, 32) of one request at `times` (now, next)."""
    columns = width // PATCH
    places = [(0, 0, 0, index) for index in range(len(text))]
    places += [(1, i // columns, i % columns, 0) for i in range(len(latents))]
    angles = [[axis * frequency for axis in place for frequency in (1.0, 0.1)] for place in places]
    turns = torch.polar(torch.ones(len(places), 8), torch.tensor(angles, dtype=torch.float32))
    time = torch.nn.functional.silu(torch.sin(times[0] * w.times[0] + times[1] * w.times[1]))
    scale, gate, mlp_scale, mlp_gate, last = (w.modulate @ time).split(WIDTH)

    def norm(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(len(x), 8, 2).contiguous())
        return torch.view_as_real(pairs * turns).reshape(len(x), HEAD)

    x = torch.cat([text @ w.text_in.T, latents @ w.image_in.T])
    for qkv, out, mlp_in, mlp_out in w.blocks:
        query, key, value = ((norm(x) * (1 + scale)) @ qkv.T).split(WIDTH, dim=1)
        heads: list[torch.Tensor] = []
        for head in range(HEADS):
            part = slice(head * HEAD, (head + 1) * HEAD)
            scores = turned(query[:, part]) @ turned(key[:, part]).T / math.sqrt(HEAD)
            heads.append(scores.softmax(dim=1) @ value[:, part])
        x = x + gate * (torch.cat(heads, dim=1) @ out.T)
        hidden = (norm(x) * (1 + mlp_scale)) @ mlp_in.T
        x = x + mlp_gate * ((hidden * hidden.sigmoid()) @ mlp_out.T)
    return (norm(x[len(text) :]) * (1 + last)) @ w.out.T


def naive_latents(
    w: Weights,
    job: LatentJob,
    positive: Conditioning,
    negative: Conditioning | None = None,
) -> torch.Tensor:
    """The finished latents of one request without cuts, step by step; skipped steps take the
    forecast of `pipelines.skipping`'s docstring, one by one."""
    sampling = job.sampling
    count = sampling.num_inference_steps
    levels = [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1 - i / count for i in range(count))]
    levels.append(0.0)
    run = {0, *range(1, count, 2), count - 1} if sampling.skips_steps else set(range(count))
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = (sampling.height // PATCH) * (sampling.width // PATCH)
    x = torch.randn(tokens, CHANNELS, generator=generator)
    history: list[tuple[float, torch.Tensor]] = []
    for step in range(count):
        if step in run:
            after = min(other for other in {*run, count} if other > step)
            at = sampling.height, sampling.width, levels[step], levels[after]
            v = naive_velocity(w, x, positive.tensors["words"], *at)
            if negative is not None and sampling.true_cfg_scale > 1:
                n = naive_velocity(w, x, negative.tensors["words"], *at)
                v = v + sampling.true_cfg_scale * (v - n)
            history.append((levels[step], v))
        level, velocity = history[-1]
        if len(history) > 3:
            before, old = history[-2]
            share = 0.5 * (levels[step] - level) / (level - before)
            velocity = velocity + share * (velocity - old)
        x = x + (levels[step + 1] - levels[step]) * velocity
    return x
