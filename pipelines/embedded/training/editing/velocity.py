"""The velocity of pictures that are drawn beside a reference, and sampling with one.

A reference is more image tokens after those of the picture, told apart by the first position axis,
as ``FluxKontextPipeline`` lays them out. Latents are packed: (n, tokens, 64) float32.
"""

from itertools import pairwise

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.embeddings import CombinedTimestepGuidanceTextProjEmbeddings
from torch import Tensor

from pipelines.embedded.training.flow import Prompts, build_scheduler
from pipelines.embedded.training.world import Canvas


def edit_velocity(
    transformer: FluxTransformer2DModel,
    canvas: Canvas,
    xt: Tensor,
    t: Tensor,
    prompts: Prompts,
    reference: Tensor | None,
    guidance: float = 1.0,
) -> Tensor:
    """The model's velocity (n, tokens, 64) at (xt, t), beside a reference of the same size or none.

    ``t`` is (n,); text and ``reference`` have n rows.
    """
    device, n = xt.device, len(xt)
    rows, columns = canvas.height // 16, canvas.width // 16
    ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, torch.float32)
    hidden = xt
    if reference is not None:
        reference_ids = ids.clone()
        reference_ids[:, 0] = 1
        ids, hidden = torch.cat([ids, reference_ids]), torch.cat([xt, reference], 1)
    out = transformer(
        hidden_states=hidden,
        encoder_hidden_states=prompts.tokens,
        pooled_projections=prompts.pooled,
        timestep=t,
        guidance=torch.full((n,), guidance, device=device),
        img_ids=ids,
        txt_ids=torch.zeros(prompts.tokens.shape[1], 3, device=device),
        return_dict=False,
    )[0]
    return out[:, : xt.shape[1]].float()


@torch.no_grad()
def sample_edit(
    transformer: FluxTransformer2DModel,
    canvas: Canvas,
    prompts: Prompts,
    noise: Tensor,
    reference: Tensor | None,
    *,
    steps: int = 10,
    guidance: float = 3.5,
) -> Tensor:
    """Euler steps from noise to latents, as the pipelines make them."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist())
    sigmas = scheduler.sigmas
    assert isinstance(sigmas, Tensor)
    x = noise
    for sigma, following in pairwise(sigmas.to(noise.device)):
        t = sigma.expand(len(x))
        x = x + (following - sigma) * edit_velocity(
            transformer, canvas, x, t, prompts, reference, guidance
        )
    return x


@torch.no_grad()
def forget_guidance(transformer: FluxTransformer2DModel) -> None:
    """Make the model draw at every guidance as it does at 1: its plain velocity.

    The carried model was distilled, so that its velocity at 1 is the one of the data. What goes on
    from there needs no guidance to be told apart.
    """
    embeddings = transformer.time_text_embed
    assert isinstance(embeddings, CombinedTimestepGuidanceTextProjEmbeddings)
    embedder = embeddings.guidance_embedder
    projection = embeddings.time_proj(torch.tensor([1000.0]))  # guidance 1
    constant = embedder(projection.to(embedder.linear_2.weight.dtype))[0]
    embedder.linear_2.weight.zero_()
    embedder.linear_2.bias.copy_(constant)
