"""The denoiser stage: what the engine's loop does to a set of works, without the loop.

A *trajectory* is one image on its way from noise to latents. Its only changing state is the
latents, a step index and the cuts made to its schedule; all the rest follows from those and the
job. So a `Checkpoint` of the three goes on anywhere, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.contracts import Checkpoint, Conditioning, LatentJob, Latents, SamplingParams
from pipelines.cuts import Cut, joined_cuts
from pipelines.errors import StageFailed, UnsupportedFeature
from pipelines.families import FlowModel, family_named
from pipelines.job_shape import shape_of
from pipelines.packing.layout import PackedBatch, RotaryTable, SegmentShape
from pipelines.sampling import Schedule
from pipelines.stages.admission import (
    check_family,
    check_start,
    conditionings_of,
    segment_shapes,
)
from pipelines.stages.tables import Tables
from pipelines.stages.trajectory import Segment, Trajectory, first_modulated


class DenoiserStage:
    """Steps any mix of trajectories together, each exactly as it would be stepped alone."""

    def __init__(self, model: FlowModel) -> None:
        self._model = model
        self._tables = Tables(model)

    @classmethod
    def load(
        cls,
        source: str,
        *,
        family: str = DEFAULT_FAMILY,
        device: str = "cpu",
        dtype: str = "float32",
        attention: str = "sdpa",
        compile: bool = False,
    ) -> DenoiserStage:
        """The stage with the weights of `source`; see `Family` for `attention` and `compile`.

        Raises CheckpointError, ConfigurationError.
        """
        load = family_named(family).load_flow_model
        return cls(load(source, device=device, dtype=dtype, attention=attention, compile=compile))

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]:
        """Tokens of each segment of one step: text and image, twice with true guidance."""
        return tuple(map(sum, self._shapes(job, positive, negative)))

    def forwards(self, job: LatentJob) -> int:
        """How many steps, of one forward each, a job takes unless it is cut."""
        return shape_of(job.sampling).forwards

    def trajectory_bytes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> int:
        """Device memory of an admitted trajectory, in bytes."""
        return self._model.trajectory_bytes(
            self._shapes(job, positive, negative),
            num_steps=self.forwards(job),
            skips_steps=job.sampling.skips_steps,
        )

    def tick_bytes(self, tokens: int) -> int:
        """Device memory of a tick over `tokens` at its peak, in bytes."""
        return self._model.tick_bytes(tokens)

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        """Text that means nothing, of the right widths: for measuring how long ticks take."""
        return self._model.random_conditioning(text_tokens)

    @property
    def device(self) -> torch.device:
        """Where latents are."""
        return self._model.device

    @property
    def latent_channels(self) -> int:
        """C: channels of latents as a decoder takes them."""
        side = self._model.family.size_multiple
        return len(self.unpacked(torch.empty(1, self._model.latent_width), side, side))

    def unpacked(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Latents (S, D) of an image of this size as (C, h, w)."""
        return self._model.unpacked(latents, height, width)

    @torch.inference_mode()
    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
    ) -> Trajectory:
        """Everything of a trajectory that no step changes, and its noise or `start`'s latents.

        From `start` it goes on to the same bits as the one that `start` was taken from. Raises
        InvalidRequest when a conditioning or `start` does not fit the model and the job,
        DegenerateImage when a conditioning is not finite, UnsupportedFeature for
        `min_inference_steps` and `planned_cuts` where schedules cannot be cut.
        """
        model, sampling = self._model, job.sampling
        conditionings = conditionings_of(sampling, positive, negative)
        check_family(job, model.family)
        model.check_conditionings(conditionings)
        if sampling.min_inference_steps is not None or sampling.planned_cuts:
            model.check_can_cut("step_cuts" if sampling.planned_cuts else "min_steps")
        image, cuts = self._image_tokens(sampling), start.cuts if start else ()
        schedule = self._schedule_after(sampling, (*sampling.planned_cuts, *cuts), image)
        if start is not None:
            check_start(start, schedule, shape=(image, model.latent_width), dtype=model.dtype)
        segments: list[Segment] = []
        for conditioning, shape in zip(
            conditionings, segment_shapes(conditionings, image), strict=True
        ):
            txt, pooled = model.embed(conditioning)
            if sampling.planned_cuts and not cuts:
                vec = self._planned_modulation(sampling, pooled, image)
            else:
                vec = self._modulation(sampling, pooled, schedule, cuts)
            rope = self._tables.rotary(shape.text, sampling.height, sampling.width)
            segments.append(Segment(txt, pooled, vec, shape, rope))
        return Trajectory(
            job=job,
            schedule=schedule,
            segments=tuple(segments),
            latents=(
                start.latents.to(model.device)
                if start
                else model.noise(sampling.seed, sampling.height, sampling.width)
            ),
            step=start.step if start else 0,
            cuts=cuts,
            velocity=(
                start.velocity.to(model.device) if start and start.velocity is not None else None
            ),
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
            predicted = [
                item.predicted_by(v) if item.predicts else None
                for item, v in zip(trajectories, velocities, strict=True)
            ]
            if self._model.device.type == "cuda":
                torch.cuda.synchronize(self._model.device)
        except torch.OutOfMemoryError as error:  # of these works, and no sign of a broken device
            raise StageFailed("too little memory for this step", stage="Denoiser") from error
        for item, velocity, latents, clean in zip(
            trajectories, velocities, moved, predicted, strict=True
        ):
            item.latents, item.predicted = latents, clean
            item.step += 1
            # Cloned: a view would keep the velocities of the whole batch.
            item.velocity = velocity.clone() if item.schedule.forecast(item.step) else None

    def can_cut(self, job: LatentJob) -> bool:
        """Whether the job's schedule can be cut on the way."""
        try:
            self._model.check_can_cut("keep")
        except UnsupportedFeature:
            return False
        return not job.sampling.skips_steps

    @torch.inference_mode()
    def cut(self, trajectory: Trajectory, num_steps: int) -> None:
        """Lay the rest of the schedule out anew, so that it has `num_steps` forwards in all.

        Cut before its first step, a trajectory is that of a job of `num_steps`. Raises ValueError
        unless `num_steps` is between what is done and what was to be done, and for a job that
        skips steps; UnsupportedFeature where schedules cannot be cut.
        """
        job, sampling = trajectory.job, trajectory.job.sampling
        if sampling.skips_steps:
            raise ValueError(f"{job.work_id}: a schedule that is planned to be short is not cut")
        cut = Cut(trajectory.step, num_steps)
        cuts = (*trajectory.cuts, cut)
        schedule = self._model.cut_schedule(trajectory.schedule, cut, trajectory.image_tokens)
        trajectory.segments = tuple(
            segment._replace(vec=self._modulation(sampling, segment.pooled, schedule, cuts))
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
        sampling = trajectory.job.sampling
        return Latents(
            packed=trajectory.latents_on_cpu(),
            height=sampling.height,
            width=sampling.width,
            steps_run=trajectory.step,
            cuts=joined_cuts(sampling.planned_cuts, trajectory.cuts),
        )

    def _schedule_after(
        self, sampling: SamplingParams, cuts: Sequence[Cut], image_tokens: int
    ) -> Schedule:
        """The schedule of a job's steps as it is after these cuts."""
        schedule = self._tables.schedule(
            sampling.num_inference_steps, image_tokens, sampling.skips_steps
        )
        for cut in cuts:
            schedule = self._model.cut_schedule(schedule, cut, image_tokens)
        return schedule

    def _modulation(
        self,
        sampling: SamplingParams,
        pooled: torch.Tensor | None,
        schedule: Schedule,
        cuts: tuple[Cut, ...],
    ) -> torch.Tensor:
        """Modulation of the forwards since the last cut, in one product.

        No more and no less even where some of them are done: the same product has the same bits.
        """
        return self._model.modulation(
            schedule, first_modulated(cuts), sampling.guidance_scale, pooled
        )

    def _planned_modulation(
        self, sampling: SamplingParams, pooled: torch.Tensor | None, image_tokens: int
    ) -> torch.Tensor:
        """Modulation of all forwards, out of the products that a job takes which is cut so on its
        way: other products might have other bits."""
        cuts, parts = sampling.planned_cuts, list[torch.Tensor]()
        for count in range(len(cuts) + 1):
            made = cuts[:count]
            schedule = self._schedule_after(sampling, made, image_tokens)
            until = cuts[count].step if count < len(cuts) else schedule.num_steps
            vec = self._modulation(sampling, pooled, schedule, made)
            parts.append(vec[: until - first_modulated(made)])
        return torch.cat(parts)

    def _image_tokens(self, sampling: SamplingParams) -> int:
        return self._model.family.image_tokens(sampling.height, sampling.width)

    def _shapes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[SegmentShape, ...]:
        """Of each segment of one step."""
        conditionings = conditionings_of(job.sampling, positive, negative)
        return segment_shapes(conditionings, self._image_tokens(job.sampling))

    def _velocities(self, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
        """The velocity (S, D) of each trajectory, guided where it has two segments."""
        parts = iter(
            self._model.velocity(self._pack(trajectories)).split(
                [item.image_tokens for item in trajectories for _ in item.segments]
            )
        )
        velocities: list[torch.Tensor] = []
        for item in trajectories:
            velocity = next(parts)
            if len(item.segments) == 2:
                scale = item.job.sampling.true_cfg_scale
                velocity = self._model.guide(velocity, next(parts), scale)
            velocities.append(velocity)
        return velocities

    def _pack(self, trajectories: Sequence[Trajectory]) -> PackedBatch:
        """Lay the segments of all trajectories one after the other."""
        pairs = [(item, segment) for item in trajectories for segment in item.segments]
        return PackedBatch(
            layout=self._tables.layout(tuple(segment.shape for _, segment in pairs)),
            img=torch.cat([item.latents for item, _ in pairs]),
            txt=torch.cat([segment.txt for _, segment in pairs]),
            vec=torch.stack(
                [segment.vec[item.step - first_modulated(item.cuts)] for item, segment in pairs]
            ),
            rope=RotaryTable(
                torch.cat([segment.rope.cos for _, segment in pairs]),
                torch.cat([segment.rope.sin for _, segment in pairs]),
            ),
        )
