"""What a model's parts weigh, without their weights: counted over the modules they describe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from pipelines import catalog
from pipelines.catalog import find
from pipelines.errors import CheckpointError, ConfigurationError
from pipelines.flux1 import memory as footprint
from pipelines.flux1.autoencoder import VaeConfig
from pipelines.flux1.checkpoint import load_text_components, load_vae, load_vae_encoder
from pipelines.flux1.components import components_of, read_components
from pipelines.flux1.modules import FluxControlNet, TransformerConfig
from pipelines.flux1.redux import ReduxEmbedder
from pipelines.flux1.tiling import TileGrid, run_tiled
from pipelines.tiling import Tiling
from tests.memory import PeakMemory


def count(*modules: torch.nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


def t5(*, layers: int = 24, heads: int = 64, width: int = 4096) -> Any:
    """T5-XXL's encoder as FLUX.1 has it, without memory for its weights."""
    config = T5Config(
        vocab_size=32_128,
        d_model=width,
        d_kv=64,
        d_ff=width * 5 // 2,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    with torch.device("meta"):
        return T5EncoderModel(config).eval()


def vae() -> Any:
    """FLUX.1's, likewise."""
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "sample_size": 1024,
    }
    with torch.device("meta"):
        return AutoencoderKL(**config).eval()


@pytest.mark.parametrize("name", [name for name in catalog.models() if name.startswith("flux.1-")])
def test_the_published_counts_are_those_of_the_modules(name: str) -> None:
    parts = components_of(find(name))
    shape = parts.transformer
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            num_layers=shape.num_layers,
            num_single_layers=shape.num_single_layers,
            num_attention_heads=shape.num_attention_heads,
            attention_head_dim=shape.attention_head_dim,
            in_channels=shape.in_channels,
            out_channels=64,
            joint_attention_dim=shape.joint_attention_dim,
            pooled_projection_dim=shape.pooled_projection_dim,
            guidance_embeds=shape.guidance_embeds,
        )
        clip = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, projection_dim=768)
        )
    decoder, encoder = vae(), vae()
    del decoder.encoder, encoder.decoder
    assert parts.transformer_weights == count(transformer) == find(name).parameters
    assert parts.text_weights == count(clip, t5())
    assert parts.decoder_weights == count(decoder)
    assert parts.encoder_weights == count(encoder)


def test_the_published_add_ons_are_counted_over_their_modules() -> None:
    with torch.device("meta"):
        vision = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=1152,
                intermediate_size=4304,
                num_hidden_layers=27,
                num_attention_heads=16,
                image_size=384,
                patch_size=14,
            )
        )
        redux = ReduxEmbedder()
        union = FluxControlNet(
            TransformerConfig(num_layers=6, num_single_layers=0, guidance_embeds=True), None
        )
    known = catalog.add_ons()
    assert known["flux.1-redux-dev"].parameters == count(vision, redux)
    assert known["flux.1-controlnet-union-pro-2.0"].parameters == count(union)


def test_every_model_of_the_catalogue_is_known() -> None:
    for spec in catalog.models().values():
        assert components_of(spec).transformer_weights == spec.parameters, spec.name


def test_a_folder_is_counted_by_its_headers() -> None:
    spec = find("sluice-shapes")
    parts = components_of(spec)
    text = load_text_components(spec.source, device="cpu", dtype="float32")
    assert parts.transformer_weights == spec.parameters
    assert parts.text_weights == count(text.clip, text.t5)
    assert parts.decoder_weights == count(load_vae(spec.source, device="cpu", dtype="float32"))
    encoder = load_vae_encoder(spec.source, device="cpu", dtype="float32")
    assert parts.encoder_weights == count(encoder)


def test_weights_of_another_model_are_refused_with_its_name() -> None:
    carried = find("sluice-shapes").source
    with pytest.raises(ConfigurationError, match=r"num_layers is 2, .* has 19; write model: sluic"):
        components_of(find("flux.1-dev", source=carried))


def test_weights_of_no_known_model_are_refused_by_the_field(dev_like: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"model_source: .*; use the weights of flux.1-dev"
    ):
        components_of(find("flux.1-dev", source=str(dev_like)))


def test_weights_without_guidance_are_not_those_with_it(
    tmp_path: Path, dev_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `model: flux.1-schnell` and the folder of FLUX.1-dev."""
    known = replace(find("sluice-shapes"), name="known", source=str(dev_like))
    monkeypatch.setattr(catalog, "models", lambda: {"known": known})
    folder = tmp_path / "other"
    for path in dev_like.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(dev_like)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "guidance_embeds": False}))
    with pytest.raises(ConfigurationError, match="guidance_embeds is False, and known has True"):
        components_of(replace(known, source=str(folder)))


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("transformer/config.json", "{", "cannot be read"),
        ("transformer/config.json", "[]", "is no JSON object"),
        ("transformer/config.json", "{}", "says nothing of num_layers"),
        ("vae/diffusion_pytorch_model.safetensors", "no weights", "cannot be read"),
        ("vae/diffusion_pytorch_model.safetensors", None, "no weights as safetensors"),
    ],
)
def test_a_damaged_folder_is_named(
    tmp_path: Path, part: str, content: str | None, said: str
) -> None:
    source = Path(find("sluice-shapes").source)
    for path in source.rglob("*"):
        if path.is_file() and path.name in ("config.json", *_WEIGHTS):
            copy = tmp_path / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    read_components(tmp_path)
    if content is None:
        (tmp_path / part).unlink()
    else:
        (tmp_path / part).write_text(content)
    with pytest.raises(CheckpointError, match=said):
        read_components(tmp_path)


_WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 512), (16, 512), (8, 256)])
def test_encoding_takes_what_was_reckoned(batch: int, tokens: int, dtype: torch.dtype) -> None:
    model = t5(layers=2).to(dtype)
    with torch.no_grad(), PeakMemory() as memory:
        model(torch.zeros(batch, tokens, dtype=torch.long, device="meta"))
    reckoned = footprint.encode_bytes(width=4096, heads=64, batch=batch, tokens=tokens)
    assert memory.peak <= reckoned <= 1.4 * memory.peak


@pytest.mark.parametrize(("batch", "side"), [(1, 512), (4, 256)])
def test_decoding_takes_what_was_reckoned(batch: int, side: int) -> None:
    model = vae().to(memory_format=torch.channels_last)
    latents = torch.zeros(batch, 16, side // 8, side // 8, device="meta")
    with torch.no_grad(), PeakMemory() as memory:
        model.decode(latents.contiguous(memory_format=torch.channels_last))
    reckoned = footprint.decode_bytes(channels=256, batch=batch, pixels=side**2, itemsize=4)
    assert memory.peak <= reckoned * 1.01
    assert reckoned <= 1.1 * memory.peak


@pytest.mark.parametrize(("height", "width"), [(1536, 1536), (1024, 3072)])
def test_decoding_in_tiles_takes_what_was_reckoned(height: int, width: int) -> None:
    model = vae().to(memory_format=torch.channels_last)
    config = VaeConfig.of(dict(model.config))
    assert config.tile_size == 1024
    latents = torch.zeros(1, 16, height // 8, width // 8, device="meta")
    with torch.no_grad(), PeakMemory() as memory:
        run_tiled(
            lambda tile: model.decode(tile).sample,
            latents.contiguous(memory_format=torch.channels_last),
            TileGrid.of_decoder(config),
        )
    rule = Tiling(size=1024, from_pixels=1)
    reckoned = footprint.decode_bytes(
        channels=256, batch=1, pixels=height * width, itemsize=4, tiling=rule
    )
    assert memory.peak <= reckoned * 1.01
    assert reckoned <= 1.1 * memory.peak
