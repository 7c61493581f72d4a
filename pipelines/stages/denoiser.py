"""The denoiser stage: what the engine's loop does to a set of works, without the loop.

A *trajectory* is one image on its way from noise to latents. Its only changing state is the
latents, a step index and the cuts made to its schedule; all the rest follows from those, the job
and what comes with it. So a `Checkpoint` of the three goes on anywhere, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.begin import Begin
from pipelines.catalog import DEFAULT_FAMILY, ControlNetSource
from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    EncodedPicture,
    LatentJob,
    Latents,
    SamplingParams,
)
from pipelines.cuts import Cut, joined_cuts
from pipelines.errors import StageFailed, UnsupportedFeature
from pipelines.families import FlowModel, family_named
from pipelines.job_shape import (
    reference_sizes,
    reference_tokens,
    shape_of,
    variation_tokens,
)
from pipelines.packing.layout import PackedBatch, RotaryTable, SegmentShape
from pipelines.sampling import Schedule
from pipelines.stages.admission import (
    check_family,
    check_pictures,
    check_start,
    conditionings_of,
    segment_shapes,
    takes_trades,
)
from pipelines.stages.tables import Tables
from pipelines.stages.trajectory import Segment, Trajectory, active_controls, first_modulated


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
        controlnets: Sequence[ControlNetSource] = (),
    ) -> DenoiserStage:
        """The stage with the weights of `source`; see `Family` for the other options.

        Raises CheckpointError, ConfigurationError.
        """
        load = family_named(family).load_flow_model
        options = {"controlnets": controlnets} if controlnets else {}
        return cls(
            load(
                source, device=device, dtype=dtype, attention=attention, compile=compile, **options
            )
        )

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]:
        """Tokens of each segment of one step: text and image, twice with true guidance, and what
        each control map costs in the same tokens."""
        shapes = self._shapes(job, positive, negative)
        maps = self._model.control_tokens(job.sampling, shapes[0].text)
        return (*map(sum, shapes), *maps)

    def forwards(self, job: LatentJob) -> int:
        """How many steps, of one forward each, a job takes unless it is cut."""
        return shape_of(job.sampling).forwards

    def trajectory_bytes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> int:
        """Device memory of an admitted trajectory, in bytes."""
        shapes, num_steps = self._shapes(job, positive, negative), self.forwards(job)
        plain = self._model.trajectory_bytes(
            shapes, num_steps=num_steps, skips_steps=job.sampling.skips_steps
        )
        return plain + self._model.picture_bytes(job.sampling, shapes[0].text, num_steps)

    def tick_bytes(self, tokens: int) -> int:
        """Device memory of a tick over `tokens` at its peak, in bytes."""
        return self._model.tick_bytes(tokens)

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        """Text that means nothing, of the right widths: for measuring how long ticks take."""
        return self._model.random_conditioning(text_tokens)

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]:
        """`sampling`, with random pictures if the model draws nothing without: likewise."""
        return self._model.needed(sampling)

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
        pictures: Sequence[EncodedPicture] = (),
    ) -> Trajectory:
        """Everything of a trajectory that no step changes, and its first latents or `start`'s.

        `pictures` are those of the job's `sampling.pictures`, in their order. From `start` it goes
        on to the same bits as the one that `start` was taken from. Raises InvalidRequest when a
        conditioning, a picture or `start` does not fit the model and the job, DegenerateImage when
        a conditioning or a picture is not finite, UnsupportedFeature for a task that the model
        cannot do, and for `min_inference_steps` and `planned_cuts` where schedules cannot be cut.
        """
        model, sampling = self._model, job.sampling
        conditionings = conditionings_of(sampling, positive, negative)
        check_family(job, model.family)
        check_pictures(sampling, pictures)
        model.check_task(sampling)
        model.check_conditionings(conditionings)
        if sampling.min_inference_steps is not None or sampling.planned_cuts:
            model.check_can_cut("step_cuts" if sampling.planned_cuts else "min_steps")
        image, cuts = self._image_tokens(sampling), start.cuts if start else ()
        schedule = self._tables.schedule_after(sampling, (*sampling.planned_cuts, *cuts), image)
        if start is not None:
            check_start(start, schedule, shape=(image, model.latent_width), dtype=model.dtype)
        begin = self._begin(sampling, schedule, positive, pictures, start)
        conditionings[0], references = begin.positive, reference_sizes(sampling)
        segments: list[Segment] = []
        shapes = segment_shapes(conditionings, image + reference_tokens(sampling))
        for conditioning, shape in zip(conditionings, shapes, strict=True):
            txt, pooled = model.embed(conditioning)
            if sampling.planned_cuts and not cuts:
                vec = self._tables.planned_modulation(sampling, pooled, image)
            else:
                vec = self._tables.modulation(sampling, pooled, schedule, cuts)
            place = (shape.text, sampling.height, sampling.width)
            rope = self._tables.rotary(*place, *([references] if references else []))
            segments.append(Segment(txt, pooled, vec, shape, rope))
        return Trajectory(
            job=job,
            schedule=schedule,
            segments=tuple(segments),
            latents=start.latents.to(model.device) if start else begin.latents,
            step=start.step if start else 0,
            cuts=cuts,
            velocity=(
                start.velocity.to(model.device) if start and start.velocity is not None else None
            ),
            pictures=begin.inputs,
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
        return not job.sampling.skips_steps and takes_trades(job.sampling)

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
            segment._replace(vec=self._tables.modulation(sampling, segment.pooled, schedule, cuts))
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

    def _begin(
        self,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        pictures: Sequence[EncodedPicture],
        start: Checkpoint | None,
    ) -> Begin:
        """What a job draws from; noise that `start` has behind it is not drawn again."""
        if pictures:
            return self._model.begin(sampling, schedule, positive, pictures)
        if start is not None:
            return Begin(start.latents, positive)
        noise = self._model.noise(sampling.seed, sampling.height, sampling.width)
        return Begin(noise, positive)

    def _image_tokens(self, sampling: SamplingParams) -> int:
        return self._model.family.image_tokens(sampling.height, sampling.width)

    def _shapes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[SegmentShape, ...]:
        """Of each segment of one step."""
        sampling = job.sampling
        shapes = segment_shapes(
            conditionings_of(sampling, positive, negative),
            self._image_tokens(sampling) + reference_tokens(sampling),
        )
        more = variation_tokens(sampling)
        return tuple(shape._replace(text=shape.text + more) for shape in shapes) if more else shapes

    def _velocities(self, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
        """The velocity (S, D) of each trajectory, guided where it has two segments."""
        batch, controls = self._pack(trajectories), active_controls(trajectories)
        found = self._model.velocity(batch, controls) if controls else self._model.velocity(batch)
        parts = iter(found.split([shape.image for shape in batch.layout.shapes]))
        velocities: list[torch.Tensor] = []
        for item in trajectories:
            own = item.image_tokens  # those of references, after them, lead nowhere
            velocity = next(parts)[:own]
            if len(item.segments) == 2:
                scale = item.job.sampling.true_cfg_scale
                velocity = self._model.guide(velocity, next(parts)[:own], scale)
            velocities.append(velocity)
        return velocities

    def _pack(self, trajectories: Sequence[Trajectory]) -> PackedBatch:
        """Lay the segments of all trajectories one after the other."""
        pairs = [(item, segment) for item in trajectories for segment in item.segments]
        return PackedBatch(
            layout=self._tables.layout(tuple(segment.shape for _, segment in pairs)),
            img=torch.cat([rows for item, _ in pairs for rows in item.pictures.rows(item.latents)]),
            txt=torch.cat([segment.txt for _, segment in pairs]),
            vec=torch.stack(
                [segment.vec[item.step - first_modulated(item.cuts)] for item, segment in pairs]
            ),
            rope=RotaryTable(
                torch.cat([segment.rope.cos for _, segment in pairs]),
                torch.cat([segment.rope.sin for _, segment in pairs]),
            ),
        )
