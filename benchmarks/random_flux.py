"""A FLUX.1 transformer with random weights, its inputs, and one step of it in both programs.

How long a step takes depends on shapes alone, so random weights will do. They are made on the
device in their final dtype: 12 B parameters in float32 would fit into no ordinary machine.

Shapes:  L text tokens    S image tokens, (side / 16)^2    N steps
         C text width     P pooled text width              D latent channels, packed
         d transformer width    M modulation values of a step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from benchmarks.alternation import Step
from pipelines.flux1.family import FAMILY as FLUX1
from pipelines.flux1.latents import position_ids
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import PackedBatch, RotaryTable, SegmentShape

_GUIDANCE_SCALE = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxShape:
    """What decides the cost of a step. `config` is that of a `FluxTransformer2DModel`."""

    name: str
    text_tokens: int
    num_steps: int
    config: Mapping[str, Any]


DEV = FluxShape(name="FLUX.1-dev", text_tokens=512, num_steps=28, config={"guidance_embeds": True})
TINY = FluxShape(
    name="tiny",
    text_tokens=10,
    num_steps=4,
    config={
        "guidance_embeds": True,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 40,
        "pooled_projection_dim": 24,
        "axes_dims_rope": (4, 6, 6),
    },
)


def random_transformer(
    shape: FluxShape, device: torch.device, dtype: torch.dtype
) -> FluxTransformer2DModel:
    """The transformer, with torch's default initialisation."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = FluxTransformer2DModel(**shape.config)
    finally:
        torch.set_default_dtype(default)
    return model.eval().requires_grad_(False)


def twin_of(model: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """A second transformer over the same memory, so that one can be compiled and one not."""
    with torch.device("meta"):
        twin: Any = FluxTransformer2DModel.from_config(model.config)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval().requires_grad_(False)


def step_flops(config: Any, lengths: Sequence[int]) -> float:
    """Floating-point operations of one step over segments of these lengths.

    A token meets 12 d^2 weights in each block, 2 operations each; attention takes 4 d for each pair
    of tokens. For FLUX.1 that is 12.9 GFLOP a token and 0.70 MFLOP a pair.
    """
    width = config.num_attention_heads * config.attention_head_dim
    blocks = config.num_layers + config.num_single_layers
    pairs = sum(length**2 for length in lengths)
    return blocks * (24 * width**2 * sum(lengths) + 4 * width * pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request in the middle of its steps, with random contents.

    `latents` (S, D), `prompt_embeds` (L, C), `pooled` (P,), positions `ids` (L + S, 3), and the
    `timestep` (1,) of the step that is taken. As when it is admitted to the packed forward: the
    embedded text `txt` (L, d), the modulation `vec` (N, M) of all steps, and `rope`.
    """

    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    pooled: torch.Tensor
    ids: torch.Tensor
    timestep: torch.Tensor
    step: int
    txt: torch.Tensor
    vec: torch.Tensor
    rope: RotaryTable

    @property
    def shape(self) -> SegmentShape:
        return SegmentShape(len(self.prompt_embeds), len(self.latents))


@torch.inference_mode()
def draw_requests(shape: FluxShape, sides: Sequence[int], flux: PackedFlux) -> list[Request]:
    """A request for a square picture of each of `sides` pixels; the same numbers every time, on
    every device."""
    generator = torch.Generator("cpu").manual_seed(0)
    return [_draw_request(shape, side, flux, generator) for side in sides]


def _draw_request(
    shape: FluxShape, side: int, flux: PackedFlux, generator: torch.Generator
) -> Request:
    config, device, dtype, steps = flux.config, flux.device, flux.dtype, shape.num_steps

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    prompt_embeds = normal(shape.text_tokens, config.joint_attention_dim)
    pooled = normal(config.pooled_projection_dim)
    ids = position_ids(shape.text_tokens, height=side, width=side, device=device, dtype=dtype)
    timesteps = torch.linspace(1000, 1000 / steps, steps, device=device)
    return Request(
        latents=normal(FLUX1.image_tokens(side, side), config.in_channels),
        prompt_embeds=prompt_embeds,
        pooled=pooled,
        ids=ids,
        timestep=timesteps[steps // 2 : steps // 2 + 1],
        step=steps // 2,
        txt=flux.embed_text(prompt_embeds),
        vec=flux.modulation(timesteps, _GUIDANCE_SCALE, pooled),
        rope=flux.rotary(ids),
    )


def diffusers_step(transformer: FluxTransformer2DModel, requests: Sequence[Request]) -> Step:
    """Each request's step by `FluxTransformer2DModel.forward`, one after the other."""
    model: Any = transformer
    calls = [
        {
            "hidden_states": request.latents[None],
            "encoder_hidden_states": request.prompt_embeds[None],
            "pooled_projections": request.pooled[None],
            "timestep": request.timestep.to(request.latents.dtype) / 1000,
            "guidance": torch.tensor([_GUIDANCE_SCALE], device=request.latents.device),
            "txt_ids": request.ids[: request.shape.text],
            "img_ids": request.ids[request.shape.text :],
            "return_dict": False,
        }
        for request in requests
    ]
    return lambda: torch.cat([model(**call)[0][0] for call in calls])


def packed_step(flux: PackedFlux, requests: Sequence[Request], *, hoisted: bool = True) -> Step:
    """One packed step of all requests; not `hoisted`, it computes its modulation itself."""
    layout = flux.layout([request.shape for request in requests])
    img = torch.cat([request.latents for request in requests])
    txt = torch.cat([request.txt for request in requests])
    rope = RotaryTable(
        torch.cat([request.rope.cos for request in requests]),
        torch.cat([request.rope.sin for request in requests]),
    )

    def rows() -> list[torch.Tensor]:
        if hoisted:
            return [request.vec[request.step] for request in requests]
        return [flux.modulation(r.timestep, _GUIDANCE_SCALE, r.pooled)[0] for r in requests]

    return lambda: flux.velocity(
        PackedBatch(layout=layout, img=img, txt=txt, vec=torch.stack(rows()), rope=rope)
    )


def one_by_one(flux: PackedFlux, requests: Sequence[Request]) -> Step:
    """A packed step for each request alone, one after the other."""
    steps = [packed_step(flux, [request]) for request in requests]
    return lambda: torch.cat([step() for step in steps])
