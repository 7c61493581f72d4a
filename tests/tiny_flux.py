"""A tiny FLUX.1 model with random weights, in the diffusers folder format.

Everything of the real architecture is there, small: both text encoders with real tokenizers, the
double and single blocks, three RoPE axes, an 8x VAE. The VAE's last layer is scaled so that its
images use the whole range of levels: on grey images any two programs agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_WORDS = ["a", "the", "red", "green", "blue", "circle", "square", "cat", "dog", "on", "of", "left"]
_CLIP_WIDTH, _T5_WIDTH = 24, 40


def make_tiny_flux(
    folder: Path, *, guidance_embeds: bool = True, dynamic_shifting: bool = True, seed: int = 0
) -> Path:
    """Write the model to `folder` and return it. The same arguments give the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=dynamic_shifting, shift=1.0 if dynamic_shifting else 3.0
            ),
            vae=_vae(),
            text_encoder=_clip(),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=_t5(),
            tokenizer_2=_t5_tokenizer(),
            transformer=_transformer(guidance_embeds),
        )
    pipeline.save_pretrained(folder)
    return folder


def _transformer(guidance_embeds: bool) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=_T5_WIDTH,
        pooled_projection_dim=_CLIP_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    with torch.no_grad():
        # Stronger than the default initialisation, so that text, time and guidance all matter.
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "time_text_embed" not in name:
                weight.mul_(2.0)
    return model


def _vae() -> AutoencoderKL:
    config: dict[str, Any] = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    vae = AutoencoderKL(**config)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3.0)
    return vae


def _clip() -> CLIPTextModel:
    tokenizer: Any = _clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_CLIP_WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=_CLIP_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _clip_tokenizer() -> CLIPTokenizer:
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.!-"]
    tokens = ["<|pad|>", "<|startoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokens.append("<|endoftext|>")
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token="<|pad|>",
        model_max_length=77,
    )


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=64,
            d_model=_T5_WIDTH,
            d_kv=10,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -3.0)]
    pieces += [("▁" + word, -4.0) for word in _WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
