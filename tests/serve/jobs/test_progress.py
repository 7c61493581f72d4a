from __future__ import annotations

import itertools
from dataclasses import replace

from serve.jobs.job import ImageProgress, JobStatus
from serve.jobs.progress import is_further, progress_json, progress_of
from tests.serve.jobs.store.samples import a_job


def image(phase: str, step: int = 0, index: int = 0) -> ImageProgress:
    return ImageProgress(image=index, phase=phase, step=step, total=10)


def test_a_job_is_where_its_last_image_is():
    told = progress_json((image("finish", 10), image("denoise", 5, 1)))
    assert (told["phase"], told["step"], told["total"]) == ("denoise", 15, 20)
    assert told["fraction"] == round((0.98 + 0.475) / 2, 4)
    assert told["images"][1] == {"image": 1, "phase": "denoise", "step": 5, "total": 10}


def test_the_share_that_is_done_only_grows():
    course = [
        image("queued"),
        image("encode"),
        *(image("denoise", step) for step in range(1, 11)),
        image("decode", 10),
        image("finish", 10),
        image("done", 10),
    ]
    fractions = [progress_json((each,))["fraction"] for each in course]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert all(is_further(new, old) for old, new in itertools.pairwise(course))
    assert not any(is_further(old, new) for old, new in itertools.pairwise(course))


def test_a_job_that_was_cut_short_is_done_as_well():
    job = a_job("job_1", images=(image("denoise", 5),))
    done = progress_of(replace(job, status=JobStatus.SUCCEEDED))
    assert (done["phase"], done["fraction"]) == ("done", 1.0)
    assert progress_of(replace(job, status=JobStatus.FAILED))["phase"] == "denoise"
    assert progress_of(a_job("job_2"))["phase"] == "queued"
