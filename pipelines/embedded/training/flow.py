"""The flow model and its arithmetic, shared by training, distillation and evaluation.

Legend: x0 clean latents, noise Gaussian, xt = (1 - t) x0 + t noise, velocity = noise - x0.
Latents are packed: (n, tokens, 64) float32, 16 tokens at 64x64. t and guidance are (n,) float32.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, nn

from pipelines.embedded.training.tokenizers import T5_LENGTH
from pipelines.embedded.training.train_text import WIDTH
from pipelines.embedded.training.world import Canvas

SHIFT = 3.0
"""Static time shift of the scheduler. ``draw_times`` draws where its steps then are."""

CHANNELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Encoded prompts: ``pooled`` (n, width) and ``tokens`` (n, T5_LENGTH, width), float32."""

    pooled: Tensor
    tokens: Tensor


def build_transformer() -> FluxTransformer2DModel:
    """An untrained transformer that starts as the zero velocity.

    The modulations and the last layer start at zero, which diffusers leaves to the trainer.
    """
    transformer = FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )
    for name, parameter in transformer.named_parameters():
        modulation = ".norm" in name and ".linear." in name
        if modulation or name.startswith(("norm_out.linear", "proj_out.")):
            nn.init.zeros_(parameter)
    return transformer


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that serving uses: Euler steps, static shift."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False)


def draw_times(n: int, generator: torch.Generator) -> Tensor:
    """Times for training: (n,) in (0, 1), mostly high, where the text decides what is drawn.

    Logit-normal about log(SHIFT), where the shifted sampling steps lie, with a uniform tenth.
    """
    normal = torch.randn(n, generator=generator) * 1.1 + float(np.log(SHIFT))
    uniform = torch.rand(n, generator=generator)
    choice = torch.rand(n, generator=generator) < 0.1
    return torch.where(choice, uniform, normal.sigmoid()).clamp(1e-3, 1 - 1e-4)


def velocity(
    transformer: FluxTransformer2DModel,
    canvas: Canvas,
    xt: Tensor,
    t: Tensor,
    prompts: Prompts,
    guidance: Tensor,
) -> Tensor:
    """The model's velocity at (xt, t) for pictures of one size: float32, shaped as xt."""
    device = xt.device
    rows, columns = canvas.height // 16, canvas.width // 16
    img_ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, torch.float32)
    out = transformer(
        hidden_states=xt,
        encoder_hidden_states=prompts.tokens,
        pooled_projections=prompts.pooled,
        timestep=t,
        guidance=guidance,
        img_ids=img_ids,
        txt_ids=torch.zeros(T5_LENGTH, 3, device=device),
        return_dict=False,
    )[0]
    return out.float()


def autocast(device: str) -> torch.autocast | nullcontext[None]:
    """bfloat16 where the processor multiplies it natively; elsewhere it would only be slower."""
    native = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16) if native else nullcontext()


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    canvas: Canvas,
    prompts: Prompts,
    noise: Tensor,
    *,
    steps: int,
    guidance: float = 1.0,
    negative: Prompts | None = None,
    cfg_scale: float = 1.0,
) -> Tensor:
    """Euler steps from noise (n, tokens, 64) to latents, as the pipeline makes them."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist())
    sigmas = scheduler.sigmas
    assert isinstance(sigmas, Tensor)
    n, x = len(noise), noise
    g = torch.full((n,), guidance, device=noise.device)
    for sigma, next_sigma in pairwise(sigmas):
        t = sigma.expand(n).to(noise.device)
        v = velocity(transformer, canvas, x, t, prompts, g)
        if negative is not None:
            v_negative = velocity(transformer, canvas, x, t, negative, g)
            v = v_negative + cfg_scale * (v - v_negative)
        x = x + (next_sigma - sigma).to(noise.device) * v
    return x


class ShortAttention:
    """Attention for training on short sequences: plain products.

    With 32 tokens the fused kernel's backward pass takes longer than everything else together.
    Same result as diffusers' own processor, up to rounding.
    """

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend over text and image tokens; returns image, or image and text, when apart."""
        assert image_rotary_emb is not None
        assert attention_mask is None
        heads = (-1, attn.head_dim)
        # The norms' weights are float32, and only their own dtype has a fused kernel.
        query = attn.norm_q(attn.to_q(hidden_states).float().unflatten(-1, heads))
        key = attn.norm_k(attn.to_k(hidden_states).float().unflatten(-1, heads))
        value = attn.to_v(hidden_states).unflatten(-1, heads)
        text = 0
        if encoder_hidden_states is not None:
            text = encoder_hidden_states.shape[1]
            text_query = attn.add_q_proj(encoder_hidden_states).float().unflatten(-1, heads)
            text_key = attn.add_k_proj(encoder_hidden_states).float().unflatten(-1, heads)
            text_value = attn.add_v_proj(encoder_hidden_states).unflatten(-1, heads)
            query = torch.cat([attn.norm_added_q(text_query), query], 1)
            key = torch.cat([attn.norm_added_k(text_key), key], 1)
            value = torch.cat([text_value, value], 1)
        query, key = (rotate(x, image_rotary_emb).to(value.dtype) for x in (query, key))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        weights = (query * attn.head_dim**-0.5 @ key.mT).softmax(-1).to(value.dtype)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        return attn.to_out[0](mixed[:, text:]), attn.to_add_out(mixed[:, :text])


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs of channels of (n, tokens, heads, width) by the tokens' angles."""
    cos, sin = (table[None, :, None, :].to(x.dtype) for table in rotary)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], -1).flatten(-2) * sin
