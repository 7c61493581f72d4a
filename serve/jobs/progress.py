"""How far a job is, by how far its images are; as it is stored in events and shown to clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.graph.listening.events import Phase
from serve.jobs.job import ImageProgress, Job, JobStatus

QUEUED = "queued"
"""The phase of an image that no runner has begun."""

_PHASES = (QUEUED, *map(str, Phase))
_SHARE = {Phase.DECODE: 0.95, Phase.FINISH: 0.98, Phase.DONE: 1.0}
"""Of an image, in phases that have no steps; denoising goes up to the first of them."""


def progress_of(job: Job) -> dict[str, Any]:
    """`progress_json` of a job as it stands."""
    if job.status is JobStatus.SUCCEEDED:
        done = str(Phase.DONE)
        return {**progress_json(job.images), "phase": done, "fraction": 1.0}
    return progress_json(job.images)


def progress_json(images: Sequence[ImageProgress]) -> dict[str, Any]:
    """Phase (of the image that is furthest behind), steps done of all, and the same by image."""
    return {
        "phase": min((each.phase for each in images), key=_PHASES.index, default=QUEUED),
        "step": sum(each.step for each in images),
        "total": sum(each.total for each in images),
        "fraction": fraction_of(images),
        "images": [
            {"image": each.image, "phase": each.phase, "step": each.step, "total": each.total}
            for each in images
        ],
    }


def fraction_of(images: Sequence[ImageProgress]) -> float:
    """The share of a job that is done, 0 to 1."""
    shares = [_share_of(each) for each in images]
    return round(sum(shares) / len(shares), 4) if shares else 0.0


def _share_of(image: ImageProgress) -> float:
    if image.phase in _SHARE:
        return _SHARE[Phase(image.phase)]
    return _SHARE[Phase.DECODE] * image.step / max(image.total, 1)


def is_further(new: ImageProgress, old: ImageProgress) -> bool:
    """Whether an image has gone on: what is done again, by another runner, is not told again."""
    return (_PHASES.index(new.phase), new.step) > (_PHASES.index(old.phase), old.step)
