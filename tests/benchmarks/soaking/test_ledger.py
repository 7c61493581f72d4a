"""The book of a soak: what it calls lost, twice and misread."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.soaking.ledger import Submission, count, is_misread, is_told_once, settle


def submission(**fields: Any) -> Submission:
    return Submission(**{"dialect": "jobs", "body": {}, **fields})


def events(*types: str) -> list[dict[str, Any]]:
    """Numbered from 1, those of images each with the next one."""
    images = iter(range(len(types)))
    return [
        {
            "number": number,
            "type": type_,
            "data": {"output": {"image": next(images)}} if type_ == "job.image" else {},
        }
        for number, type_ in enumerate(types, start=1)
    ]


WHOLE = ("job.queued", "job.running", "job.progress", "job.image", "job.image", "job.succeeded")


def test_each_image_and_the_end_once():
    assert is_told_once(events(*WHOLE))


@pytest.mark.parametrize("left_out", range(len(WHOLE)))
def test_a_number_that_is_missing_is_a_gap(left_out: int):
    told = events(*WHOLE)
    del told[left_out]
    assert not is_told_once(told)


def test_an_image_twice():
    told = events(*WHOLE)
    told[4]["data"] = told[3]["data"]
    assert not is_told_once(told)


@pytest.mark.parametrize(
    "types",
    [
        (),
        ("job.queued", "job.running"),
        ("job.queued", "job.cancelled", "job.succeeded"),
        ("job.queued", "job.succeeded", "job.image"),
    ],
)
def test_an_end_that_is_none_or_not_the_last(types: tuple[str, ...]):
    assert not is_told_once(events(*types))


@pytest.mark.parametrize(
    ("fields", "is_wrong"),
    [
        ({}, False),
        ({"followed": [1, 2, 3], "shown": "succeeded"}, False),
        ({"followed": [1, 3]}, True),
        ({"followed": [1, 2, 2, 3]}, True),
        ({"followed": [1, 2]}, True),
        ({"shown": "cancelled"}, True),
        ({"misled": True}, True),
    ],
)
def test_what_a_client_was_told_is_what_the_store_tells(fields: dict[str, Any], is_wrong: bool):
    told = events("job.queued", "job.running", "job.succeeded")
    assert is_misread(submission(fate="succeeded", **fields), told) is is_wrong


def test_sums():
    expired = submission(job_id="job_5")
    settle(expired, {"status": "expired", "error": {"message": "too late"}})
    made = [
        submission(fate="succeeded", replays=2, followed=[1, 2], resumed=1),
        submission(fate="succeeded", job_id="job_2", doubled=True, replays=1),
        submission(fate="cancelled"),
        submission(fate="failed"),
        submission(),
        expired,
    ]
    counted = count(made, {"job_2", "job_9"}, {"job_3"})
    assert counted._asdict() == {
        "submitted": 6,
        "succeeded": 2,
        "failed": 2,
        "cancelled": 1,
        "lost": 2,
        "twice": 2,
        "misread": 1,
        "replays": 3,
        "followed": 1,
        "resumed": 1,
    }
