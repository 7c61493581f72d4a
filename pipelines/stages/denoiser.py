"""The denoiser stage: what the engine's loop does to a set of works, without the loop.

A *trajectory* is one image on its way from noise to latents. Its only changing state is the
latents and a step index; all the rest is computed when it is admitted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pipelines.checkpoint import load_denoiser_components
from pipelines.contracts import LatentJob, Latents, TextConditioning
from pipelines.errors import DegenerateImage, InvalidRequest
from pipelines.ragged import (
    Layout,
    PackedBatch,
    PackedFlux,
    RotaryTable,
    SegmentShape,
    make_layout,
)
from pipelines.sampling import (
    Schedule,
    draw_noise,
    euler_step,
    guide,
    make_schedule,
    position_ids,
)

_LAYOUTS_KEPT = 32


class Segment(NamedTuple):
    """One conditioning of one trajectory: text (L, d) and modulation of all steps (N, M)."""

    txt: torch.Tensor
    vec: torch.Tensor


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """One image being denoised. `latents` is (S, D) and changes; so does `step`; nothing else."""

    job: LatentJob
    schedule: Schedule
    segments: tuple[Segment, ...]
    shape: SegmentShape
    rope: RotaryTable
    latents: torch.Tensor
    step: int = 0

    @property
    def is_done(self) -> bool:
        return self.step >= self.schedule.num_steps


class DenoiserStage:
    """Steps any mix of trajectories together, each exactly as `FluxPipeline` would alone."""

    def __init__(self, flux: PackedFlux, scheduler_config: dict[str, Any]) -> None:
        self._flux = flux
        self._scheduler_config = scheduler_config
        self._layouts: OrderedDict[tuple[SegmentShape, ...], Layout] = OrderedDict()

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        attention: str = "sdpa",
    ) -> DenoiserStage:
        """The stage with the weights of `source`. Raises CheckpointError, ConfigurationError."""
        transformer, scheduler_config = load_denoiser_components(source, device=device, dtype=dtype)
        return cls(PackedFlux(transformer, attention=attention), scheduler_config)

    @torch.inference_mode()
    def admit(
        self, job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
    ) -> Trajectory:
        """Everything of a trajectory that no step changes, and its starting noise.

        Raises InvalidRequest when a conditioning does not fit the model.
        """
        flux, device, dtype = self._flux, self._flux.device, self._flux.dtype
        guided = negative is not None and job.true_cfg_scale > 1
        conditionings = [positive, negative] if guided and negative is not None else [positive]
        for conditioning in conditionings:
            self._check_conditioning(conditioning)
        noise = draw_noise(
            job.seed,
            height=job.height,
            width=job.width,
            latent_channels=flux.config.in_channels // 4,
            device=device,
            dtype=dtype,
        )
        text_tokens = len(positive.prompt_embeds)
        schedule = make_schedule(
            self._scheduler_config,
            num_steps=job.num_inference_steps,
            image_tokens=len(noise),
            device=device,
        )
        ids = position_ids(
            text_tokens, height=job.height, width=job.width, device=device, dtype=dtype
        )
        return Trajectory(
            job=job,
            schedule=schedule,
            segments=tuple(
                Segment(
                    flux.embed_text(conditioning.prompt_embeds.to(device, dtype)),
                    flux.modulation(
                        schedule.timesteps,
                        job.guidance_scale,
                        conditioning.pooled_prompt_embeds.to(device, dtype),
                    ),
                )
                for conditioning in conditionings
            ),
            shape=SegmentShape(text_tokens, len(noise)),
            rope=flux.rotary(ids),
            latents=noise,
        )

    @torch.inference_mode()
    def tick(self, trajectories: Sequence[Trajectory]) -> None:
        """Advance each trajectory by one step, in one packed forward: all of them, or none.

        Nothing is changed before everything is computed, so a tick that raises can be repeated.
        """
        velocities = self._flux.velocity(self._pack(trajectories)).split(
            [item.shape.image for item in trajectories for _ in item.segments]
        )
        moved: list[torch.Tensor] = []
        position = 0
        for item in trajectories:
            velocity = velocities[position]
            if len(item.segments) == 2:
                velocity = guide(velocity, velocities[position + 1], item.job.true_cfg_scale)
            sigmas = item.schedule.sigmas[item.step : item.step + 2]
            moved.append(euler_step(item.latents, velocity, sigmas))
            position += len(item.segments)
        for item, latents in zip(trajectories, moved, strict=True):
            item.latents = latents
            item.step += 1

    def finish(self, trajectory: Trajectory) -> Latents:
        """The result of a finished trajectory, on the CPU, where any decoder can take it from.

        Raises DegenerateImage if it is not finite.
        """
        packed = trajectory.latents.cpu()
        if not bool(packed.isfinite().all()):
            raise DegenerateImage("denoising produced latents that are not finite")
        return Latents(
            packed=packed,
            height=trajectory.job.height,
            width=trajectory.job.width,
            steps_run=trajectory.step,
        )

    def _pack(self, trajectories: Sequence[Trajectory]) -> PackedBatch:
        """Lay the segments of all trajectories one after the other."""
        pairs = [(item, segment) for item in trajectories for segment in item.segments]
        return PackedBatch(
            layout=self._layout(tuple(item.shape for item, _ in pairs)),
            img=torch.cat([item.latents for item, _ in pairs]),
            txt=torch.cat([segment.txt for _, segment in pairs]),
            vec=torch.stack([segment.vec[item.step] for item, segment in pairs]),
            rope=RotaryTable(
                torch.cat([item.rope.cos for item, _ in pairs]),
                torch.cat([item.rope.sin for item, _ in pairs]),
            ),
        )

    def _layout(self, shapes: tuple[SegmentShape, ...]) -> Layout:
        """A set of trajectories stays together for many ticks, so its layout is kept."""
        if shapes not in self._layouts:
            self._layouts[shapes] = make_layout(shapes, self._flux.device)
            if len(self._layouts) > _LAYOUTS_KEPT:
                self._layouts.popitem(last=False)
        self._layouts.move_to_end(shapes)
        return self._layouts[shapes]

    def _check_conditioning(self, conditioning: TextConditioning) -> None:
        """A text encoder of another model would fail inside the packed forward, for everybody."""
        config = self._flux.config
        widths = (conditioning.prompt_embeds.shape[-1], conditioning.pooled_prompt_embeds.shape[-1])
        expected = (config.joint_attention_dim, config.pooled_projection_dim)
        if widths != expected:
            raise InvalidRequest(
                f"conditioning is {widths[0]} and {widths[1]} wide, but the denoiser takes"
                f" {expected[0]} and {expected[1]}: both stages must load the same model"
            )
