"""Every generation that was understood leaves one line, whatever became of it."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from ray._common.formatters import JSONFormatter

from pipelines.errors import ContentPolicyViolation, DeadlineUnreachable, StageFailed
from pipelines.moderation import PromptRules
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
PLANNED = " images=1 size=64x64 steps=12 deadline_ms=30000"
LATE = f"{PLANNED} met=no"
COST = "device_seconds=0.25 megapixel_steps=0.049"
DRAWN = f"{PLANNED} met=yes steps_run=12 source=drawn {COST}"


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve")


def only_line(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = (m for m in caplog.messages if m.startswith("generation request="))
    return line


REFUSED_IMAGE = ContentPolicyViolation(
    "image 0 was refused", stage="image", category="nsfw", score=0.93, threshold=0.8
)


@pytest.mark.parametrize(
    ("error", "fields", "outcome"),
    [
        (None, {}, f"ok{DRAWN}"),
        (None, {"n": 1000}, "invalid_value"),
        (None, {"model": "other"}, "model_not_found"),
        (REFUSED_IMAGE, {}, f"content_policy_violation category=nsfw{PLANNED}"),
        (StageFailed("x", stage="s"), {}, f"stage_failed{LATE}"),
        (KeyError("x"), {}, f"internal_error{LATE}"),
    ],
)
async def test_the_outcome(
    client_of: ClientOf,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    fields: dict[str, Any],
    outcome: str,
):
    client = client_of(services(FakeGraph(error=error)))
    body = {"prompt": "a cat", "user": "u-1", **fields}
    answer = await client.post(URL, json=body, headers={"x-request-id": "r-1"})
    line = only_line(caplog)
    assert line.startswith(
        f"generation request=r-1 trace={answer.headers['x-trace-id']} user='u-1' tenant='u-1'"
        f" outcome={outcome} seconds="
    )


async def test_a_refused_prompt_is_named_by_its_category_alone(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
):
    body = {"prompt": "a lot of gore", "user": "u-1"}
    answer = (await client_of(services(rules=PromptRules.load())).post(URL, json=body)).json()
    line = only_line(caplog)
    category = answer["error"]["category"]
    assert (
        f"user='u-1' tenant='u-1' outcome=content_policy_violation category={category} seconds="
        in line
    )
    assert "gore" not in caplog.text


async def test_a_request_that_takes_too_long(client_of: ClientOf, caplog: pytest.LogCaptureFixture):
    given = services(FakeGraph(hangs=True), limits={"request_timeout_s": 0.05})
    await client_of(given).post(URL, json={"prompt": "a cat"})
    assert f"user=None tenant='' outcome=request_timeout{LATE} seconds=" in only_line(caplog)


async def test_what_cannot_be_parsed_has_no_user_to_log(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
):
    await client_of(services()).post(URL, json={"prompt": 1, "user": "u-1"})
    assert caplog.messages == []


class Clock:
    """Unix time, which goes on by `step` seconds whenever it is asked for."""

    def __init__(self, step: float) -> None:
        self.now = 1_800_000_000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("step", "met"), [(0.0, "yes"), (2.0, "no")])
async def test_whether_the_deadline_was_met(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture, step: float, met: str
):
    client = client_of(services(FakeGraph(steps_run=9), now=Clock(step)))
    await client.post(URL, json={"prompt": "a cat", "n": 2, "deadline_ms": 1000, "min_steps": 5})
    assert f" deadline_ms=1000 met={met} steps_run=9,9 source=drawn" in only_line(caplog)


async def test_a_refused_deadline_is_not_a_missed_one(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
):
    refusal = DeadlineUnreachable("x", earliest_s=4.25, retry_after_s=None)
    client = client_of(services(FakeGraph(error=refusal)))
    await client.post(URL, json={"prompt": "a cat", "deadline_ms": 15})
    assert " outcome=deadline_unreachable " in only_line(caplog)
    assert " deadline_ms=15 met=refused seconds=" in only_line(caplog)


async def test_images_that_went_on_elsewhere(client_of: ClientOf, caplog: pytest.LogCaptureFixture):
    await client_of(services(FakeGraph(resumed_at=(5, 10)))).post(URL, json={"prompt": "a cat"})
    assert " steps_run=12 resumed_at=5,10 source=drawn" in only_line(caplog)


async def test_no_deadline(client_of: ClientOf, caplog: pytest.LogCaptureFixture):
    client = client_of(services(deadlines={"default_ms": None}))
    await client.post(URL, json={"prompt": "a cat"})
    assert (
        " steps=12 steps_run=12 source=drawn device_seconds=0.25 megapixel_steps=0.049 seconds="
        in only_line(caplog)
    )


async def test_what_a_line_says_is_there_as_fields_for_json(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="ray.serve")
    answer = await client.post(URL, json={"prompt": "a secret cat", "user": "u-1", "n": 2})
    (record,) = (r for r in caplog.records if getattr(r, "event", None) == "generation")
    fields = json.loads(JSONFormatter().format(record))
    assert fields["trace"] == answer.headers["x-trace-id"]
    assert (fields["tenant"], fields["outcome"], fields["images"]) == ("u-1", "ok", 2)
    assert "secret" not in json.dumps(fields)


async def test_a_line_stays_a_line(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture):
    """Whatever a client writes into its names, and into all other fields."""
    long = "z" * 400_000
    for field in ("user", "safety_identifier", "size", "model", "quality", "seed", long):
        caplog.clear()
        answer = await client.post(URL, json={"prompt": "a cat", field: long})
        assert answer.status_code in (400, 404)
        assert max(map(len, caplog.messages), default=0) < 1000, field[:20]
