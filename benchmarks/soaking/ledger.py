"""Ledger: what became of every submission of a soak, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

USER = "soak"
"""Whose all jobs of a soak are."""

Fate = Literal["succeeded", "failed", "cancelled"]

FATES: Mapping[str, Fate] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "expired": "failed",
    "moderated": "failed",
    "cancelled": "cancelled",
}
"""By the status of a job that is over."""

FINAL_EVENTS = frozenset(f"job.{status}" for status in FATES)


@dataclass(slots=True, kw_only=True)
class Submission:
    """One request over `dialect`, with the body that draws the same images again.

    `job_id` is there once a stored job was acknowledged. A request that is answered on its own
    connection ends with its `fate`; of a stored job the store is asked, and `shown` is how its
    dialect said that it ended, if it was asked. `images` are the answer's files. `webhook` is the
    URL that is to be told.

    Of a stored job: `replays` of its submit, and whether one was `doubled`: answered with another
    job; whether its owner asked to have it `kept`; the numbers of the events that a client
    `followed` over `resumed` broken connections. `misled`: an answer broke its dialect's rules.
    """

    dialect: str
    body: Mapping[str, Any]
    webhook: str | None = None
    job_id: str | None = None
    fate: Fate | None = None
    reason: str = ""
    images: list[bytes] = field(default_factory=list)
    shown: Fate | None = None
    replays: int = 0
    doubled: bool = False
    kept: bool = False
    followed: list[int] | None = None
    resumed: int = 0
    misled: bool = False


class Count(NamedTuple):
    """`lost` have no end, or one without a reason. `twice` have an image or an end more than once,
    numbers of events with gaps, or a second job under one idempotency key. `misread` were told
    otherwise: events left out or repeated to a client that resumed, an end in a dialect's words
    that is not the job's, an answer against its rules."""

    submitted: int
    succeeded: int
    failed: int
    cancelled: int
    lost: int
    twice: int
    misread: int
    replays: int
    followed: int
    resumed: int


def settle(submission: Submission, job: Mapping[str, Any]) -> None:
    """Take over how a stored job ended, as its route tells it."""
    submission.fate = FATES.get(job["status"])
    if submission.fate == "failed":
        submission.reason = (job.get("error") or {}).get("message", "")


def is_told_once(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a job's stored events are numbered from 1 without gaps, tell of each image once at
    most, and of one end, which is the last. Each has `number`, `type` and its `data`."""
    if [event["number"] for event in events] != list(range(1, len(events) + 1)):
        return False
    images = Counter(
        event["data"]["output"]["image"] for event in events if event["type"] == "job.image"
    )
    ends = [at for at, event in enumerate(events) if event["type"] in FINAL_EVENTS]
    return max(images.values(), default=1) == 1 and ends == [len(events) - 1]


def is_misread(submission: Submission, events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a client was told of a stored job otherwise than the store tells, whose `events`
    these are."""
    numbers = [event["number"] for event in events]
    return (
        submission.misled
        or submission.followed not in (None, numbers)
        or submission.shown not in (None, submission.fate)
    )


def count(submissions: Sequence[Submission], twice: set[str], misread: set[str]) -> Count:
    """The sums; `twice` and `misread` are ids of jobs of which that was found."""
    fates = Counter(each.fate for each in submissions)
    lost = sum(
        each.fate is None or (each.fate == "failed" and not each.reason) for each in submissions
    )
    return Count(
        submitted=len(submissions),
        succeeded=fates["succeeded"],
        failed=fates["failed"],
        cancelled=fates["cancelled"],
        lost=lost,
        twice=len(twice | {each.job_id for each in submissions if each.doubled}),
        misread=len(misread),
        replays=sum(each.replays for each in submissions),
        followed=sum(each.followed is not None for each in submissions),
        resumed=sum(each.resumed for each in submissions),
    )
