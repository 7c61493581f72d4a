"""Random requests for the packed forward, and what diffusers' own forward makes of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from pipelines.flux1.latents import position_ids
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import PackedBatch, RotaryTable, SegmentShape


class SegmentSpec(NamedTuple):
    """One segment: text tokens, pixels, guidance and time; segments of a pair share latents."""

    text: int
    height: int
    width: int
    guidance_scale: float
    timestep: float
    shares_latents: bool = False

    @property
    def shape(self) -> SegmentShape:
        return SegmentShape(self.text, self.height * self.width // 256)


class Segment(NamedTuple):
    """A spec and its random tensors: latents (S, 64), text (L, C), pooled text (P,)."""

    spec: SegmentSpec
    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    pooled: torch.Tensor


def random_specs(seed: int, works: int, *, max_side: int = 8) -> list[SegmentSpec]:
    """Works of any size, text length, time and guidance; a third is guided by a negative prompt.

    A guided work is two neighbouring segments of the same latents and time. Drawn from few values,
    so that equal neighbours occur.
    """
    generator = torch.Generator().manual_seed(seed)

    def pick(*values: float) -> float:
        return values[int(torch.randint(len(values), (), generator=generator))]

    specs: list[SegmentSpec] = []
    for _ in range(works):
        spec = SegmentSpec(
            int(pick(5, 12, 16)),
            16 * int(pick(1, 4, max_side)),
            16 * int(pick(2, 4)),
            pick(1.0, 3.5, 7.0),
            pick(1000.0, 812.5, 433.25, 61.0),
        )
        specs.append(spec)
        if pick(0, 0, 1):
            specs.append(spec._replace(shares_latents=True))
    return specs


def draw(flux: PackedFlux, specs: Sequence[SegmentSpec], seed: int = 0) -> list[Segment]:
    """Random inputs for `specs`, drawn on the CPU and moved to the model."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(flux.device, flux.dtype)

    segments: list[Segment] = []
    for spec in specs:
        latents = normal(spec.shape.image, flux.config.in_channels)
        segments.append(
            Segment(
                spec,
                segments[-1].latents if spec.shares_latents else latents,
                normal(spec.text, flux.config.joint_attention_dim),
                normal(flux.config.pooled_projection_dim),
            )
        )
    return segments


def pack(flux: PackedFlux, segments: Sequence[Segment]) -> PackedBatch:
    """The segments as one batch."""
    ropes = [flux.rotary(_ids(flux, segment.spec)) for segment in segments]
    times = [torch.tensor([segment.spec.timestep], device=flux.device) for segment in segments]
    return PackedBatch(
        layout=flux.layout([segment.spec.shape for segment in segments]),
        img=torch.cat([segment.latents for segment in segments]),
        txt=torch.cat([flux.embed_text(segment.prompt_embeds) for segment in segments]),
        vec=torch.cat(
            [
                flux.modulation(time, segment.spec.guidance_scale, segment.pooled)
                for time, segment in zip(times, segments, strict=True)
            ]
        ),
        rope=RotaryTable(
            torch.cat([rope.cos for rope in ropes]), torch.cat([rope.sin for rope in ropes])
        ),
    )


def velocities(flux: PackedFlux, segments: Sequence[Segment]) -> tuple[torch.Tensor, ...]:
    """Each segment's velocity out of one packed forward."""
    return flux.velocity(pack(flux, segments)).split([s.spec.shape.image for s in segments])


def references(
    transformer: Any, flux: PackedFlux, segments: Sequence[Segment]
) -> Iterator[torch.Tensor]:
    """Each segment's velocity by `FluxTransformer2DModel.forward`, called as the pipeline does."""
    for spec, latents, prompt_embeds, pooled in segments:
        ids = _ids(flux, spec)
        time = torch.tensor([spec.timestep], device=flux.device).to(flux.dtype)
        guidance = torch.tensor([spec.guidance_scale], device=flux.device)
        yield transformer(
            hidden_states=latents[None],
            encoder_hidden_states=prompt_embeds[None],
            pooled_projections=pooled[None],
            timestep=time / 1000,
            guidance=guidance if flux.config.guidance_embeds else None,
            img_ids=ids[spec.text :],
            txt_ids=ids[: spec.text],
            return_dict=False,
        )[0][0]


def _ids(flux: PackedFlux, spec: SegmentSpec) -> torch.Tensor:
    return position_ids(
        spec.text, height=spec.height, width=spec.width, device=flux.device, dtype=flux.dtype
    )
