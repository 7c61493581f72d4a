"""What a model consists of: how many weights each part has, and the shapes that its memory follows.

For FLUX.1 written down, for a folder read from configurations and the headers of its weights, so
that memory can be told before anything is loaded. Knows no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipelines import catalog
from pipelines.catalog import ModelSpec
from pipelines.errors import CheckpointError, ConfigurationError
from pipelines.flux1 import memory
from pipelines.tiling import Tiling


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerShape:
    """The transformer's configuration, in the names that diffusers has for it."""

    num_layers: int
    num_single_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    joint_attention_dim: int
    pooled_projection_dim: int
    guidance_embeds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The parts of one model, a `pipelines.families.ModelParts`.

    `text_weights` counts both text encoders, `decoder_weights` the VAE without its encoder,
    `encoder_weights` the VAE without its decoder. `t5_width` and `t5_heads` are those of the larger
    encoder, `decoder_channels` and `encoder_channels` the channels of the VAE's halves where they
    have all pixels, `tile_size` the side of its tiles in pixels, 0 without.
    """

    transformer: TransformerShape
    transformer_weights: int
    text_weights: int
    decoder_weights: int
    encoder_weights: int
    t5_width: int
    t5_heads: int
    decoder_channels: int
    encoder_channels: int
    tile_size: int

    @property
    def heads(self) -> int:
        return self.transformer.num_attention_heads

    def encode_bytes(self, *, batch: int, tokens: int) -> int:
        return memory.encode_bytes(
            width=self.t5_width, heads=self.t5_heads, batch=batch, tokens=tokens
        )

    def decode_bytes(
        self, *, batch: int, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        return memory.decode_bytes(
            channels=self.decoder_channels,
            batch=batch,
            pixels=pixels,
            itemsize=itemsize,
            tiling=tiling,
        )

    def encode_image_bytes(
        self, *, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        return memory.encode_image_bytes(
            channels=self.encoder_channels, pixels=pixels, itemsize=itemsize, tiling=tiling
        )

    def tick_bytes(self, *, tokens: int, itemsize: int, tensor: int, ulysses: int) -> int:
        return memory.tick_bytes(
            self.transformer, tokens=tokens, itemsize=itemsize, tensor=tensor, ulysses=ulysses
        )

    def trajectory_bytes(
        self,
        *,
        text: int,
        image: int,
        segments: int,
        num_steps: int,
        itemsize: int,
        skips_steps: bool,
    ) -> int:
        return memory.trajectory_bytes(
            self.transformer,
            text=text,
            image=image,
            segments=segments,
            num_steps=num_steps,
            itemsize=itemsize,
            skips_steps=skips_steps,
        )

    def first_rank_weights(self, tensor: int) -> int:
        """Weights of the rank that has the modulation: all but what it shares of the blocks.

        A double block has 24 d^2 in two streams, a single one 12 d^2; biases and norms are little.
        """
        shape = self.transformer
        width = shape.num_attention_heads * shape.attention_head_dim
        blocks = (24 * shape.num_layers + 12 * shape.num_single_layers) * width**2
        return self.transformer_weights - blocks + blocks // tensor


def _flux(*, weights: int, guidance_embeds: bool, in_channels: int = 64) -> Components:
    """FLUX.1, counted over the modules that its published configurations make: CLIP-L 123,060,480,
    T5-XXL's encoder 4,762,310,656, and both halves of the VAE's 83,819,683."""
    return Components(
        transformer=TransformerShape(
            num_layers=19,
            num_single_layers=38,
            num_attention_heads=24,
            attention_head_dim=128,
            in_channels=in_channels,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=guidance_embeds,
        ),
        transformer_weights=weights,
        text_weights=123_060_480 + 4_762_310_656,
        decoder_weights=49_545_475,
        encoder_weights=34_274_208,
        t5_width=4096,
        t5_heads=64,
        decoder_channels=256,
        encoder_channels=128,
        tile_size=1024,
    )


_PUBLISHED: Mapping[str, Components] = {
    "flux.1-dev": _flux(weights=11_901_408_320, guidance_embeds=True),
    "flux.1-kontext-dev": _flux(weights=11_901_408_320, guidance_embeds=True),
    "flux.1-fill-dev": _flux(weights=11_902_391_360, guidance_embeds=True, in_channels=384),
    "flux.1-depth-dev": _flux(weights=11_901_604_928, guidance_embeds=True, in_channels=128),
    "flux.1-canny-dev": _flux(weights=11_901_604_928, guidance_embeds=True, in_channels=128),
    "flux.1-schnell": _flux(weights=11_891_178_560, guidance_embeds=False),
}


def components_of(spec: ModelSpec) -> Components:
    """The parts of `spec`, from its folder if this machine has it, else as published.

    Raises ConfigurationError where the folder's transformer is not the model's, CheckpointError
    where the folder cannot be read.
    """
    if not Path(spec.source).is_dir():
        return _published(spec.name)
    found = read_components(Path(spec.source))
    expected = _published(spec.name).transformer
    if found.transformer != expected:
        raise ConfigurationError(_another_shape(spec, found.transformer, expected))
    return found


def read_components(folder: Path) -> Components:
    """The parts of a model in the diffusers format. Raises CheckpointError."""
    names = [each.name for each in fields(TransformerShape)]
    transformer = _config(folder / "transformer", *names)
    t5 = _config(folder / "text_encoder_2", "d_model", "num_heads")
    channels: list[int] = _config(folder / "vae", "block_out_channels")["block_out_channels"]
    return Components(
        transformer=TransformerShape(**transformer),
        transformer_weights=_count(folder / "transformer"),
        text_weights=_count(folder / "text_encoder") + _count(folder / "text_encoder_2"),
        decoder_weights=_count(folder / "vae", but=("encoder.", "quant_conv.")),
        encoder_weights=_count(folder / "vae", but=("decoder.", "post_quant_conv.")),
        t5_width=t5["d_model"],
        t5_heads=t5["num_heads"],
        decoder_channels=channels[min(1, len(channels) - 1)],
        encoder_channels=channels[0],
        tile_size=memory.tile_size(
            read_json(folder / "vae" / "config.json").get("sample_size", 32), levels=len(channels)
        ),
    )


def _published(name: str) -> Components:
    return _PUBLISHED.get(name) or read_components(Path(catalog.find(name).source))


def _another_shape(spec: ModelSpec, found: TransformerShape, expected: TransformerShape) -> str:
    theirs, ours = asdict(found), asdict(expected)
    field = next(name for name in ours if theirs[name] != ours[name])
    alike = [name for name in catalog.models() if _published(name).transformer == found]
    hint = f"write model: {alike[0]}" if alike else f"use the weights of {spec.name}"
    return (
        f"model_source: {spec.source} holds a transformer whose {field} is {theirs[field]}, and"
        f" {spec.name} has {ours[field]}; {hint}"
    )


def _config(folder: Path, *names: str) -> dict[str, Any]:
    """These values of a part's configuration."""
    config = read_json(folder / "config.json")
    if lacking := [name for name in names if name not in config]:
        raise CheckpointError(f"{folder / 'config.json'}: says nothing of {lacking[0]}")
    return {name: config[name] for name in names}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a checkpoint. Raises CheckpointError if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: cannot be read: it is no JSON object")
    return content


def count_weights(folder: Path) -> int:
    """Weights of a folder with one model, such as a ControlNet. Raises CheckpointError."""
    return _count(folder)


def _count(folder: Path, *, but: tuple[str, ...] = ()) -> int:
    """Weights in a part's folder, without those whose names start with any of `but`."""
    total = 0
    for path in _files(folder):
        try:
            with safe_open(path, framework="np") as weights:
                names: list[str] = weights.keys()
                kept = [name for name in names if not name.startswith(but)]
                total += sum(prod(weights.get_slice(name).get_shape()) for name in kept)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return total


def _files(folder: Path) -> list[Path]:
    """One file, or those that its index lists; other variants may lie beside them."""
    for name in ("diffusion_pytorch_model", "model"):
        index = folder / f"{name}.safetensors.index.json"
        if index.is_file():
            return [folder / file for file in sorted({*read_json(index)["weight_map"].values()})]
        if (single := folder / f"{name}.safetensors").is_file():
            return [single]
    raise CheckpointError(f"{folder}: no weights as safetensors")
