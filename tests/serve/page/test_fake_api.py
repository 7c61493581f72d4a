"""The fake answers as the application does."""

from __future__ import annotations

from typing import Any

from serve.api.jobs.job_view import JobView
from serve.api.models import model_card
from serve.api.planning import plan_of
from serve.api.preflight import Cost, PreflightResponse
from serve.api.receipts import ReceiptResponse
from serve.api.schemas import parse_request
from serve.jobs.stored_request import stored_request
from tests.serve.fakes import services
from tests.serve.page.fake_api import CARD, STORED_REQUEST, FakeApi
from tests.serve.page.test_receipts import RECEIPT


def check(job: dict[str, Any]) -> None:
    assert JobView.model_validate(job, strict=False, extra="forbid").as_json() == job


def test_its_jobs_are_jobs_in_every_state():
    api = FakeApi()
    job_id = api.adds("somebody", "a red circle", n=2)
    check(api.jobs[job_id])
    api.waits(job_id, position=2)
    check(api.jobs[job_id])
    api.runs(job_id, step=3)
    check(api.jobs[job_id])
    api.draws(job_id)
    check(api.jobs[job_id])
    api.finishes(job_id)
    check(api.jobs[job_id])
    for status in ("failed", "cancelled"):
        check(api.jobs[api.adds("somebody", "a red circle", status=status)])


def test_its_requests_are_stored_ones():
    plan = plan_of(services(), parse_request({"prompt": "a red circle"}))
    assert STORED_REQUEST.keys() == stored_request(plan).keys()


def test_its_model_is_one():
    card = model_card(services()).model_dump(mode="json")
    assert CARD.keys() <= card.keys()
    for section in ("defaults", "limits"):
        assert CARD[section].keys() <= card[section].keys()
    assert CARD["defaults"]["quality_steps"].keys() == card["defaults"]["quality_steps"].keys()


def test_its_preflight_says_what_the_real_one_does():
    assert FakeApi().preflight.keys() <= PreflightResponse.model_fields.keys()
    assert FakeApi().preflight["cost"].keys() == Cost.model_fields.keys()


def test_its_receipts_say_what_real_ones_do():
    assert RECEIPT.keys() == ReceiptResponse.model_fields.keys()
