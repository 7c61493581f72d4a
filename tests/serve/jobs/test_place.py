from __future__ import annotations

from typing import Any

import pytest

from deployments.graph.forecast import Forecast
from serve.jobs.job import ImageProgress, JobStatus
from serve.jobs.place import OVER, place_of
from serve.jobs.store.job_store import Waiting
from tests.serve.jobs.store.samples import a_job

NOBODY = Waiting(jobs=0, work_s=0.0)


def forecast(**known: Any) -> Forecast:
    return Forecast(**{"asleep": (), "cold_start_s": 0.0, **known})


@pytest.mark.parametrize(
    ("known", "waiting", "place"),
    [
        ({}, NOBODY, (0, None, "it is next", "next")),
        ({"queued_s": 0.0, "eta_s": 2.0}, NOBODY, (0, 2.0, "it is next", "next")),
        (
            {"queued_s": 1.0, "eta_s": 3.0},
            NOBODY,
            (0, 3.0, "requests under way go first", "requests"),
        ),
        (
            {"queued_s": 1.0, "eta_s": 3.0},
            Waiting(jobs=3, work_s=9.0),
            (3, 12.0, "3 jobs go first", "jobs"),
        ),
        ({"asleep": ("A",)}, NOBODY, (0, None, "A is starting", "start")),
        ({"asleep": ("A", "B", "C")}, NOBODY, (0, None, "A, B and C are starting", "start")),
    ],
)
def test_of_one_that_waits(known: dict[str, Any], waiting: Waiting, place: tuple[Any, ...]):
    assert place_of(a_job("job_1"), forecast(**known), waiting) == place


@pytest.mark.parametrize(
    ("phase", "step", "eta_s", "reason"),
    [
        ("queued", 0, 4.0, "it begins"),
        ("encode", 0, 4.0, "its prompt is being read"),
        ("denoise", 5, pytest.approx(2.1), "step 5 of 10"),
        ("decode", 10, pytest.approx(0.2), "its image is being decoded"),
        ("finish", 10, pytest.approx(0.08), "its file is being written"),
        ("done", 10, 0.0, "it is being stored"),
    ],
)
def test_of_one_that_runs(phase: str, step: int, eta_s: float, reason: str):
    images = (ImageProgress(image=0, phase=phase, step=step, total=10),)
    job = a_job("job_1", status=JobStatus.RUNNING, images=images)
    place = place_of(job, forecast(queued_s=6.0, eta_s=10.0), NOBODY)
    assert place == (None, eta_s, reason, phase)


def test_of_one_that_runs_while_stages_start():
    images = (ImageProgress(image=0, phase="encode", step=0, total=10),)
    job = a_job("job_1", status=JobStatus.RUNNING, images=images)
    assert place_of(job, forecast(asleep=("Denoiser",)), NOBODY).reason == "Denoiser is starting"


def test_of_one_that_is_over():
    assert place_of(a_job("job_1", status=JobStatus.FAILED), forecast(), NOBODY) == OVER
