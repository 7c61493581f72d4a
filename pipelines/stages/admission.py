"""What a job brings along, checked before it meets others in a packed forward.

There, a tensor of the wrong shape would fail everybody's step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    EncodedPicture,
    LatentJob,
    SamplingParams,
)
from pipelines.errors import DegenerateImage, InvalidRequest
from pipelines.families import Family
from pipelines.packing.layout import SegmentShape
from pipelines.sampling import Schedule
from pipelines.stages.trajectory import first_modulated
from pipelines.task_rules import FIELDS, RULES, check_task
from pipelines.tasks import PictureRole, PictureUse, Task


def segment_shapes(
    conditionings: Sequence[Conditioning], image_tokens: int
) -> tuple[SegmentShape, ...]:
    """Tokens of each segment of a job."""
    lengths = [each.sequence_length for each in conditionings]
    return tuple(SegmentShape(text=length, image=image_tokens) for length in lengths)


def conditionings_of(
    sampling: SamplingParams, positive: Conditioning, negative: Conditioning | None
) -> list[Conditioning]:
    """One for each segment of a job: the negative counts only where it is scaled."""
    if negative is not None and sampling.uses_true_cfg:
        return [positive, negative]
    return [positive]


def check_family(job: LatentJob, family: Family) -> None:
    """Raises InvalidRequest for a job of a model of another family."""
    if job.sampling.family != family.name:
        raise InvalidRequest(
            f"{job.work_id}: is for a model of the family {job.sampling.family}, but the denoiser"
            f" has one of {family.name}"
        )


def check_pictures(sampling: SamplingParams, pictures: Sequence[EncodedPicture]) -> None:
    """Raises InvalidRequest unless a job's pictures are those that its task and its `sampling` say,
    UnsupportedFeature for what its task cannot do, DegenerateImage for values that are not finite.
    """
    if sampling.task is Task.TEXT_TO_IMAGE and not (pictures or sampling.pictures):
        return  # min_steps and the like are the model's to check
    check_task(sampling, (sampling.task,))
    said = [_place(sampling.task, use) for use in sampling.pictures]
    found = [_place(sampling.task, each) for each in pictures]
    if said != found:
        raise InvalidRequest(f"pictures: the job has {said}, but with it came {found}")
    for each in pictures:
        if not bool(each.values.isfinite().all()):
            raise DegenerateImage(f"{FIELDS[each.role]}: its encoding is not finite")


def _place(task: Task, picture: PictureUse | EncodedPicture) -> tuple[PictureRole, int, int]:
    """Role and size, where the size counts: a variation's picture is seen as a whole."""
    if task is Task.VARIATION:
        return picture.role, 0, 0
    return picture.role, picture.height, picture.width


def takes_trades(sampling: SamplingParams) -> bool:
    """Whether steps of a job of this task may be cut."""
    controls = any(use.role is PictureRole.CONTROL for use in sampling.pictures)
    return RULES[sampling.task].takes_trades and not controls


def check_start(
    start: Checkpoint, schedule: Schedule, *, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Raises InvalidRequest for a checkpoint of another job, or of a replica with other settings.

    `schedule` is the job's after the checkpoint's cuts; `shape` (S, D) and `dtype` are those of its
    latents here.
    """
    for name, tensor in (("latents", start.latents), ("velocity", start.velocity)):
        if tensor is not None and (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            raise InvalidRequest(
                f"{start.work_id}: {name} of the checkpoint {tuple(tensor.shape)} {tensor.dtype},"
                f" of the job {shape} {dtype}: all replicas must run the same model and dtype"
            )
    first = first_modulated(start.cuts)
    if not first <= start.step < schedule.num_steps:
        raise InvalidRequest(
            f"{start.work_id}: step {start.step} of the checkpoint is outside"
            f" {first}..{schedule.num_steps - 1}, where its job can go on"
        )
    if schedule.forecast(start.step) and start.velocity is None:
        raise InvalidRequest(f"{start.work_id}: the checkpoint lacks the velocity to go on from")
