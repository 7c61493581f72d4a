"""A job's log, as Replicate's own client reads it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from replicate.prediction import Prediction

from serve.api.vendors.job_logs import job_logs, progress_line
from serve.jobs.job import ImageProgress, Job, JobError, JobStatus
from tests.serve.webhooks.fakes import finished_job


def job_at(*steps: int) -> Job:
    return replace(
        finished_job(),
        status=JobStatus.RUNNING,
        started_at=1_700_000_000.5,
        finished_at=None,
        request={"prompt": "a cat", "seed": 7},
        images=tuple(
            ImageProgress(image=index, phase="denoise", step=step, total=10)
            for index, step in enumerate(steps)
        ),
    )


@pytest.mark.parametrize("step", range(21))
def test_every_step_is_read_back(step: int):
    read = Prediction.Progress.parse(progress_line(step, 20))
    assert read is not None
    assert (read.current, read.total) == (step, 20)
    assert read.percentage == step * 5 / 100


def test_a_bar_is_as_long_as_it_is_far():
    assert progress_line(0, 8) == "  0%|          | 0/8"
    assert progress_line(5, 12) == " 42%|████▏     | 5/12"
    assert progress_line(8, 8) == "100%|██████████| 8/8"
    assert progress_line(0, 0) == "  0%|          | 0/0"


def test_nothing_of_a_job_that_waits():
    assert job_logs(replace(job_at(0), started_at=None)) == []


def test_all_images_count():
    assert job_logs(job_at(4, 1)) == ["Using seed: 7", " 25%|██▌       | 5/20"]


def test_warnings_and_the_error():
    failed = replace(
        job_at(4),
        warnings=("scheduler: not used",),
        error=JobError(message="it failed", type="server_error", code="stage_failed"),
    )
    lines = job_logs(failed)
    assert lines == [
        "Using seed: 7",
        "Warning: scheduler: not used",
        " 40%|████      | 4/10",
        "Error: it failed",
    ]
    read = Prediction.Progress.parse("\n".join(lines))
    assert read is not None
    assert read.current == 4
