"""FLUX.1 as a family: what can be told of it without torch, and how its parts are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.families import Family
from pipelines.flux1.components import components_of

if TYPE_CHECKING:
    from pipelines.catalog import ControlNetSource
    from pipelines.flux1.decoder import FluxDecoder
    from pipelines.flux1.image_encoder import FluxImageEncoder
    from pipelines.flux1.model import FluxModel
    from pipelines.flux1.text import FluxText

SIZE_MULTIPLE = 16
"""Pixels per packed latent: 8x from the VAE, 2x from packing."""

REDUX_TOKENS = 729
"""Of SigLIP's 27x27 patches, which a variation's picture becomes."""

_INDEX = "model_index.json"
TEXT_PARTS = (_INDEX, "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
DENOISER_PARTS = (_INDEX, "scheduler", "transformer")
VAE_PARTS = (_INDEX, "vae")
"""Files and subfolders that each stage reads, and all that must be in its folder."""


def _load_text(source: str, *, device: str, dtype: str) -> FluxText:
    from pipelines.flux1.checkpoint import load_text_components
    from pipelines.flux1.text import FluxText

    return FluxText(load_text_components(source, device=device, dtype=dtype))


def _load_model(
    source: str,
    *,
    device: str,
    dtype: str,
    attention: str = "sdpa",
    compile: bool = False,
    controlnets: Sequence[ControlNetSource] = (),
) -> FluxModel:
    from pipelines.flux1.checkpoint import load_controlnet, load_denoiser_components
    from pipelines.flux1.controlnet import PackedControlNet
    from pipelines.flux1.controlnets import FluxControlNets, LoadedNet
    from pipelines.flux1.model import FluxModel
    from pipelines.flux1.transformer import PackedFlux

    transformer, scheduler_config = load_denoiser_components(source, device=device, dtype=dtype)
    config = transformer.config
    flux = PackedFlux(transformer, attention=attention, compile=compile)
    nets = [
        LoadedNet(
            # Never compiled: it runs in few ticks, and with bits of its own in all of them.
            PackedControlNet(
                load_controlnet(each.folder, device=device, dtype=dtype),
                doubles=config.num_layers,
                singles=config.num_single_layers,
                attention=attention,
            ),
            each.kinds,
        )
        for each in controlnets
    ]
    return FluxModel(flux, scheduler_config, FluxControlNets(flux, nets))


def _load_decoder(source: str, *, device: str, dtype: str) -> FluxDecoder:
    from pipelines.flux1.checkpoint import load_vae
    from pipelines.flux1.decoder import FluxDecoder

    return FluxDecoder(load_vae(source, device=device, dtype=dtype))


def _load_image_encoder(
    source: str, *, device: str, dtype: str, variations: str | None = None
) -> FluxImageEncoder:
    from pipelines.flux1.checkpoint import load_redux, load_vae_encoder
    from pipelines.flux1.image_encoder import FluxImageEncoder

    redux = None if variations is None else load_redux(variations, device=device, dtype=dtype)
    return FluxImageEncoder(load_vae_encoder(source, device=device, dtype=dtype), redux)


FAMILY = Family(
    name="flux1",
    size_multiple=SIZE_MULTIPLE,
    text_files=TEXT_PARTS,
    transformer_files=DENOISER_PARTS,
    decoder_files=VAE_PARTS,
    encoder_files=VAE_PARTS,
    load_prompt_encoder=_load_text,
    load_flow_model=_load_model,
    load_latent_decoder=_load_decoder,
    load_image_encoder=_load_image_encoder,
    parts_of=components_of,
    shards=True,
    variation_tokens=REDUX_TOKENS,
    weighs_words=True,
)
