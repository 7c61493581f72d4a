"""How many images of jobs are begun beside requests under way."""

from __future__ import annotations

import sys

from serve.generation.admission import Admission
from serve.jobs.running.runner import JobSlots


def test_half_of_all_places_are_never_taken_by_jobs():
    slots = JobSlots(Admission(8, 8), 32, lambda: 8)
    assert [slots.free(running) for running in (1, 3, 4, 9)] == [3, 1, 0, -5]


def test_no_more_than_the_operator_allows():
    slots = JobSlots(Admission(1024, 512), 3, lambda: 1024)
    assert [slots.free(running) for running in (1, 2, 3)] == [2, 1, 0]


def test_where_requests_take_all_places_jobs_wait():
    admission = Admission(4, 4)
    slots = JobSlots(admission, 32, lambda: 4)
    with admission.slot("somebody", 4):
        assert slots.free(0) == 0
    assert slots.free(1) == 1


def test_whatever_its_size_one_job_may_run():
    assert JobSlots(Admission(1, 1), 1, lambda: 1).free(0) == sys.maxsize
