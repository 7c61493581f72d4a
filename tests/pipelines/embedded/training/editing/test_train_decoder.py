"""The decoder alone is trained, on what the flow leaves it."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import save_file

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import loop, world
from pipelines.embedded.training.editing import train_decoder
from pipelines.embedded.training.flow import ShortAttention
from pipelines.embedded.training.latents import decode_latents, encode_images
from pipelines.embedded.training.train_text import load_encoders

SMALL = world.CANVASES[0]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(EMBEDDED_MODEL_DIR / "vae", torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel.from_pretrained(
        EMBEDDED_MODEL_DIR, subfolder="transformer", torch_dtype=torch.float32
    )
    transformer.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
    return transformer


@torch.no_grad()
def test_decoding_is_the_pipelines(vae: AutoencoderKL) -> None:
    packed = torch.randn(2, SMALL.tokens, 64, generator=torch.Generator().manual_seed(0))
    decoded = train_decoder.decode(vae, packed, SMALL)
    assert decoded.min() < 0  # not cut yet
    torch.testing.assert_close(decoded.clamp(0, 1), decode_latents(vae, packed, SMALL))


@torch.no_grad()
def test_latents_are_true_ones_or_one_step_away(
    vae: AutoencoderKL, transformer: FluxTransformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    codes = world.sample_codes(4, generator)
    images = world.render(codes, generator)
    clean = encode_images(vae, images)
    encoders = load_encoders(EMBEDDED_MODEL_DIR)
    errors = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(train_decoder, "TRUE_SHARE", share)
        seen = train_decoder.seen_latents(
            vae,
            transformer,
            encoders,
            images,
            codes,
            torch.Generator().manual_seed(2),
            random.Random(2),
        )
        errors[share] = float((seen - clean).square().mean().sqrt())
    assert errors[1.0] == pytest.approx(train_decoder.NOISE, rel=0.1)
    assert train_decoder.NOISE < errors[0.0] < 0.6  # brought back, though not exactly


def test_the_encoder_stays_as_it_is(
    transformer: FluxTransformer2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EMBEDDED_MODEL_DIR / "vae", tmp_path / "vae")
    (tmp_path / "text").symlink_to(EMBEDDED_MODEL_DIR)
    (tmp_path / "flow").mkdir()
    save_file(transformer.state_dict(), tmp_path / "flow" / loop.CHECKPOINT)
    monkeypatch.setattr(world, "CANVASES", (*world.CANVASES[:1],) * 5)
    monkeypatch.setattr(train_decoder, "TOKENS", 32)
    monkeypatch.setattr(train_decoder, "SCORED", 2)
    train_decoder.train_decoder(tmp_path, minutes=0.001)
    record = json.loads((tmp_path / "decoder" / "training.json").read_text())
    assert record["steps"] >= 1
    assert 0 < record["before"]["64x64"]["iou_p10"] <= 1
    before, after = (
        AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).state_dict()
        for folder in (EMBEDDED_MODEL_DIR, tmp_path)
    )
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder"}
