"""Jobs that differ from others in what they draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.contracts import LatentJob


def with_sampling(job: LatentJob, **changes: Any) -> LatentJob:
    """`job` with these fields of its sampling changed."""
    return replace(job, sampling=replace(job.sampling, **changes))
