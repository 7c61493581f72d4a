"""What a job brings along, checked before it meets others in a packed forward.

There, a tensor of the wrong shape would fail everybody's step.
"""

from __future__ import annotations

from typing import Any

import torch

from pipelines.catalog import image_tokens
from pipelines.contracts import Checkpoint, LatentJob, TextConditioning
from pipelines.errors import DegenerateImage, InvalidRequest
from pipelines.packing.layout import SegmentShape
from pipelines.sampling import Schedule
from pipelines.stages.trajectory import first_modulated


def segment_shape_of(job: LatentJob, positive: TextConditioning) -> SegmentShape:
    """Tokens of each segment of a job."""
    return SegmentShape(text=len(positive.prompt_embeds), image=image_tokens(job.height, job.width))


def conditionings_of(
    job: LatentJob, positive: TextConditioning, negative: TextConditioning | None
) -> list[TextConditioning]:
    """One for each segment of a job: the negative counts only where it is scaled."""
    if negative is not None and job.uses_true_cfg:
        return [positive, negative]
    return [positive]


def check_conditioning(conditioning: TextConditioning, text_tokens: int, config: Any) -> None:
    """Raises InvalidRequest for the text encoder of another model, or another length than the
    prompt's `text_tokens`; DegenerateImage for values that are not finite."""
    tensors = (conditioning.prompt_embeds, conditioning.pooled_prompt_embeds)
    widths = tuple(tensor.shape[-1] for tensor in tensors)
    expected = (config.joint_attention_dim, config.pooled_projection_dim)
    if widths != expected:
        raise InvalidRequest(
            f"conditioning is {widths[0]} and {widths[1]} wide, but the denoiser takes"
            f" {expected[0]} and {expected[1]}: both stages must load the same model"
        )
    if len(conditioning.prompt_embeds) != text_tokens:
        raise InvalidRequest(
            f"the negative prompt has {len(conditioning.prompt_embeds)} tokens, the prompt"
            f" {text_tokens}: encode both with one max_sequence_length"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise DegenerateImage("the text encoder's values are not finite")


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
