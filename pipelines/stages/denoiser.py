"""The denoiser stage: what the engine's loop does to a set of works, without the loop.

A *trajectory* is one image on its way from noise to latents. Its only changing state is the
latents, a step index and the cuts made to its schedule; all the rest follows from those and the
job. So a `Checkpoint` of the three goes on anywhere, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from pipelines.contracts import Checkpoint, LatentJob, Latents, TextConditioning
from pipelines.cuts import Cut
from pipelines.errors import StageFailed
from pipelines.flux1 import memory as footprint
from pipelines.flux1.checkpoint import load_denoiser_components
from pipelines.flux1.latents import draw_noise
from pipelines.flux1.schedule import check_can_cut, cut_schedule
from pipelines.flux1.transformer import PackedFlux
from pipelines.job_shape import shape_of
from pipelines.packing.layout import PackedBatch, RotaryTable
from pipelines.sampling import Schedule, guide
from pipelines.stages.admission import (
    check_conditioning,
    check_start,
    conditionings_of,
    segment_shape_of,
)
from pipelines.stages.tables import Tables
from pipelines.stages.trajectory import Segment, Trajectory, first_modulated

_LAYOUTS_KEPT = 32


class DenoiserStage:
    """Steps any mix of trajectories together, each exactly as `FluxPipeline` would alone."""

    def __init__(self, flux: PackedFlux, scheduler_config: dict[str, Any]) -> None:
        self._flux = flux
        self._scheduler_config = scheduler_config
        # Few distinct ones recur, and a set of trajectories stays together for many ticks.
        self._layout = lru_cache(_LAYOUTS_KEPT)(flux.layout)
        self._tables = Tables(flux, scheduler_config)

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        attention: str = "sdpa",
        compile: bool = False,
    ) -> DenoiserStage:
        """The stage with the weights of `source`; see `PackedFlux` for `attention` and `compile`.

        Raises CheckpointError, ConfigurationError.
        """
        transformer, scheduler_config = load_denoiser_components(source, device=device, dtype=dtype)
        return cls(PackedFlux(transformer, attention=attention, compile=compile), scheduler_config)

    def segments(
        self, job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
    ) -> tuple[int, ...]:
        """Tokens of each segment of one step: text and image, twice with true guidance."""
        uses_true_cfg = len(conditionings_of(job, positive, negative)) > 1
        shape = shape_of(job, uses_true_cfg=uses_true_cfg)
        return shape.tokens(len(positive.prompt_embeds))

    def forwards(self, job: LatentJob) -> int:
        """How many steps, of one forward each, a job takes unless it is cut."""
        return shape_of(job).forwards

    def trajectory_bytes(
        self, job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
    ) -> int:
        """Device memory of an admitted trajectory, see `footprint.trajectory_bytes`."""
        text, image = segment_shape_of(job, positive)
        return footprint.trajectory_bytes(
            self._flux.config,
            text=text,
            image=image,
            segments=len(conditionings_of(job, positive, negative)),
            num_steps=self.forwards(job),
            itemsize=self._flux.dtype.itemsize,
            skips_steps=job.skips_steps,
        )

    def tick_bytes(self, tokens: int) -> int:
        """Device memory of a tick over `tokens` at its peak, see `footprint.tick_bytes`."""
        itemsize = self._flux.dtype.itemsize
        return footprint.tick_bytes(self._flux.config, tokens=tokens, itemsize=itemsize)

    def random_conditioning(self, text_tokens: int) -> TextConditioning:
        """Text that means nothing, of the right widths: for measuring how long ticks take."""
        config = self._flux.config
        return TextConditioning(
            prompt_embeds=torch.randn(text_tokens, config.joint_attention_dim),
            pooled_prompt_embeds=torch.randn(config.pooled_projection_dim),
            num_tokens=text_tokens,
        )

    @torch.inference_mode()
    def admit(
        self,
        job: LatentJob,
        positive: TextConditioning,
        negative: TextConditioning | None,
        start: Checkpoint | None = None,
    ) -> Trajectory:
        """Everything of a trajectory that no step changes, and its noise or `start`'s latents.

        From `start` it goes on to the same bits as the one that `start` was taken from. Raises
        InvalidRequest when a conditioning or `start` does not fit the model and the job,
        DegenerateImage when a conditioning is not finite, UnsupportedFeature for
        `min_inference_steps` and `planned_cuts` where schedules cannot be cut.
        """
        conditionings = conditionings_of(job, positive, negative)
        for conditioning in conditionings:
            check_conditioning(conditioning, len(positive.prompt_embeds), self._flux.config)
        if job.min_inference_steps is not None or job.planned_cuts:
            field = "step_cuts" if job.planned_cuts else "min_steps"
            check_can_cut(self._scheduler_config, field)
        shape, cuts = segment_shape_of(job, positive), start.cuts if start else ()
        schedule = self._schedule_after(job, (*job.planned_cuts, *cuts), shape.image)
        if start is not None:
            check_start(
                start,
                schedule,
                shape=(shape.image, self._flux.config.in_channels),
                dtype=self._flux.dtype,
            )
        device, dtype = self._flux.device, self._flux.dtype
        segments: list[Segment] = []
        for conditioning in conditionings:
            pooled = conditioning.pooled_prompt_embeds.to(device, dtype)
            txt = self._flux.embed_text(conditioning.prompt_embeds.to(device, dtype))
            if job.planned_cuts:
                vec = self._planned_modulation(job, pooled, shape.image)
            else:
                vec = self._modulation(job, pooled, schedule, cuts)
            segments.append(Segment(txt, pooled, vec))
        return Trajectory(
            job=job,
            schedule=schedule,
            segments=tuple(segments),
            shape=shape,
            rope=self._tables.rotary(shape.text, job.height, job.width),
            latents=start.latents.to(device) if start else self._noise(job),
            step=start.step if start else 0,
            cuts=cuts,
            velocity=start.velocity.to(device) if start and start.velocity is not None else None,
        )

    @torch.inference_mode()
    def tick(self, trajectories: Sequence[Trajectory]) -> None:
        """Advance each trajectory by one step, in one packed forward: all of them, or none.

        Nothing is changed before everything is computed, so a tick that raises can be repeated.
        Returns when the device is done with it. Raises StageFailed when it has too little memory.
        """
        try:
            velocities = self._velocities(trajectories)
            moved = [item.moved(v) for item, v in zip(trajectories, velocities, strict=True)]
            if self._flux.device.type == "cuda":
                torch.cuda.synchronize(self._flux.device)
        except torch.OutOfMemoryError as error:  # of these works, and no sign of a broken device
            raise StageFailed("too little memory for this step", stage="Denoiser") from error
        for item, velocity, latents in zip(trajectories, velocities, moved, strict=True):
            item.latents = latents
            item.step += 1
            # Cloned: a view would keep the velocities of the whole batch.
            item.velocity = velocity.clone() if item.schedule.forecast(item.step) else None

    @torch.inference_mode()
    def cut(self, trajectory: Trajectory, num_steps: int) -> None:
        """Lay the rest of the schedule out anew, so that it has `num_steps` forwards in all.

        Cut before its first step, a trajectory is that of a job of `num_steps`. Raises ValueError
        unless `num_steps` is between what is done and what was to be done, and for a job that
        skips steps or has planned cuts; UnsupportedFeature where schedules cannot be cut.
        """
        job = trajectory.job
        if job.skips_steps or job.planned_cuts:
            raise ValueError(f"{job.work_id}: a schedule that is planned to be short is not cut")
        cut = Cut(trajectory.step, num_steps)
        cuts = (*trajectory.cuts, cut)
        schedule = cut_schedule(
            trajectory.schedule, cut, self._scheduler_config, image_tokens=trajectory.shape.image
        )
        trajectory.segments = tuple(
            segment._replace(vec=self._modulation(job, segment.pooled, schedule, cuts))
            for segment in trajectory.segments
        )
        trajectory.schedule, trajectory.cuts = schedule, cuts

    def checkpoint(self, trajectory: Trajectory) -> Checkpoint:
        """What `admit` needs to go on from here, on the CPU.

        Raises DegenerateImage if the latents are not finite.
        """
        return Checkpoint(
            work_id=trajectory.job.work_id,
            step=trajectory.step,
            latents=trajectory.latents_on_cpu(),
            cuts=trajectory.cuts,
            velocity=None if trajectory.velocity is None else trajectory.velocity.cpu(),
        )

    def finish(self, trajectory: Trajectory) -> Latents:
        """The result of a finished trajectory, on the CPU, where any decoder can take it from.

        Raises DegenerateImage if it is not finite.
        """
        return Latents(
            packed=trajectory.latents_on_cpu(),
            height=trajectory.job.height,
            width=trajectory.job.width,
            steps_run=trajectory.step,
            cuts=(*trajectory.job.planned_cuts, *trajectory.cuts),
        )

    def _schedule_after(self, job: LatentJob, cuts: Sequence[Cut], image_tokens: int) -> Schedule:
        """The schedule of a job's steps as it is after these cuts."""
        schedule = self._tables.schedule(job.num_inference_steps, image_tokens, job.skips_steps)
        for cut in cuts:
            schedule = cut_schedule(
                schedule, cut, self._scheduler_config, image_tokens=image_tokens
            )
        return schedule

    def _modulation(
        self, job: LatentJob, pooled: torch.Tensor, schedule: Schedule, cuts: tuple[Cut, ...]
    ) -> torch.Tensor:
        """Modulation of the forwards since the last cut, in one product.

        No more and no less even where some of them are done: the same product has the same bits.
        """
        timesteps = schedule.timesteps[first_modulated(cuts) :]
        return self._tables.modulation(timesteps, job.guidance_scale, pooled)

    def _planned_modulation(
        self, job: LatentJob, pooled: torch.Tensor, image_tokens: int
    ) -> torch.Tensor:
        """Modulation of all forwards, out of the products that a job takes which is cut so on its
        way: other products might have other bits."""
        cuts, parts = job.planned_cuts, list[torch.Tensor]()
        for count in range(len(cuts) + 1):
            made = cuts[:count]
            schedule = self._schedule_after(job, made, image_tokens)
            until = cuts[count].step if count < len(cuts) else schedule.num_steps
            vec = self._modulation(job, pooled, schedule, made)
            parts.append(vec[: until - first_modulated(made)])
        return torch.cat(parts)

    def _noise(self, job: LatentJob) -> torch.Tensor:
        return draw_noise(
            job.seed,
            height=job.height,
            width=job.width,
            latent_channels=self._flux.config.in_channels // 4,
            device=self._flux.device,
            dtype=self._flux.dtype,
        )

    def _velocities(self, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
        """The velocity (S, D) of each trajectory, guided where it has two segments."""
        parts = iter(
            self._flux.velocity(self._pack(trajectories)).split(
                [item.shape.image for item in trajectories for _ in item.segments]
            )
        )
        velocities: list[torch.Tensor] = []
        for item in trajectories:
            velocity = next(parts)
            if len(item.segments) == 2:
                velocity = guide(velocity, next(parts), item.job.true_cfg_scale)
            velocities.append(velocity)
        return velocities

    def _pack(self, trajectories: Sequence[Trajectory]) -> PackedBatch:
        """Lay the segments of all trajectories one after the other."""
        pairs = [(item, segment) for item in trajectories for segment in item.segments]
        return PackedBatch(
            layout=self._layout(tuple(item.shape for item, _ in pairs)),
            img=torch.cat([item.latents for item, _ in pairs]),
            txt=torch.cat([segment.txt for _, segment in pairs]),
            vec=torch.stack(
                [segment.vec[item.step - first_modulated(item.cuts)] for item, segment in pairs]
            ),
            rope=RotaryTable(
                torch.cat([item.rope.cos for item, _ in pairs]),
                torch.cat([item.rope.sin for item, _ in pairs]),
            ),
        )
