"""The soak's receiver of webhooks: what it takes, what it refuses, and what it calls wrong."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from benchmarks.soaking.hooks import Hook, HookReceiver, hook_of
from benchmarks.soaking.ledger import Fate, Submission

SECRET = "whsec_" + "c2VjcmV0" * 8
OTHER = "whsec_" + "b3RoZXJz" * 8


class Chance(random.Random):
    """Always the same."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self._chance = chance

    def random(self) -> float:
        return self._chance


def told(job_id: str, status: str = "succeeded") -> dict[str, Any]:
    return {"type": f"job.{status}", "data": {"id": job_id, "status": status}}


def send(
    receiver: HookReceiver, said: dict[str, Any], *, webhook_id: str = "msg_1", secret: str = SECRET
) -> int:
    body, at = json.dumps(said), datetime.now(UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body),
    }
    return httpx.post(receiver.url, content=body, headers=headers).status_code


def submission(job_id: str, fate: Fate = "succeeded", webhook: str | None = "url") -> Submission:
    return Submission(dialect="jobs", body={}, job_id=job_id, fate=fate, webhook=webhook)


@pytest.mark.parametrize(
    ("said", "hook"),
    [
        (told("job_1", "expired"), Hook("msg_1", "job_1", "failed")),
        ({"id": "job_1", "status": "canceled"}, Hook("msg_1", "job_1", "cancelled")),
        ({"id": "job_1", "status": "failed"}, Hook("msg_1", "job_1", "failed")),
        ({"id": "job_1", "status": "processing"}, Hook("msg_1", "job_1", None)),
        ({"request_id": "job_1", "status": "OK"}, Hook("msg_1", "job_1", "succeeded")),
        (
            {"request_id": "job_1", "status": "ERROR", "error_type": "client_cancelled"},
            Hook("msg_1", "job_1", "cancelled"),
        ),
        (
            {"request_id": "job_1", "status": "ERROR", "error_type": "stage_failed"},
            Hook("msg_1", "job_1", "failed"),
        ),
    ],
)
def test_the_words_of_each_dialect(said: dict[str, Any], hook: Hook):
    assert hook_of("msg_1", said) == hook


def test_what_came_is_counted_against_what_is_expected():
    receiver = HookReceiver(SECRET, Chance(1.0))
    with receiver.listening():
        assert send(receiver, told("job_1"), webhook_id="msg_1") == 204
        assert send(receiver, told("job_1"), webhook_id="msg_1") == 204
        assert send(receiver, told("job_2"), webhook_id="msg_2") == 204
        assert send(receiver, told("job_2"), webhook_id="msg_3") == 204
        assert send(receiver, told("job_3"), webhook_id="msg_4") == 204
        assert send(receiver, told("job_4"), webhook_id="msg_5", secret=OTHER) == 401
    made = [
        submission("job_1"),
        submission("job_2"),
        submission("job_3", fate="cancelled"),
        submission("job_4"),
        submission("job_5", webhook=None),
    ]
    receiver.wait(made[:3], 0.0)
    assert receiver.count(made)._asdict() == {
        "expected": 4,
        "missing": 1,
        "wrong": 2,
        "again": 2,
        "refused": 0,
        "unsigned": 1,
    }


def test_one_that_is_refused_must_come_again():
    receiver = HookReceiver(SECRET, Chance(0.0))
    with receiver.listening():
        assert send(receiver, told("job_1")) == 503
        assert receiver.count([submission("job_1")]).missing == 1
        assert send(receiver, told("job_1")) == 204
    count = receiver.count([submission("job_1")])
    assert (count.missing, count.again, count.refused) == (0, 0, 1)
