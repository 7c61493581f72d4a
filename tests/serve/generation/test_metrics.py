"""What a generation adds to the metrics, by how it ends."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from deployments.graph.forecast import COLD_START
from deployments.metrics import declared as metrics
from pipelines.contracts import ServiceTerms
from pipelines.errors import (
    ContentPolicyViolation,
    DeadlineUnreachable,
    Overloaded,
    StageFailed,
)
from pipelines.moderation import PromptRules
from serve.errors import ERROR_TABLE
from serve.generation.metrics import deadline_result
from tests.recorder import Recorder, recorded
from tests.serve.conftest import ClientOf
from tests.serve.fakes import PIXELS, FakeGraph, services

__all__ = ["recorded"]

URL = "/v1/images/generations"
DUE = ServiceTerms(tenant="anna", deadline=100.0)
REFUSED_IMAGE = ContentPolicyViolation(
    "image 0 was refused", stage="image", category="nsfw", score=0.93, threshold=0.8
)
TOO_LATE = DeadlineUnreachable("too late", earliest_s=3.0, retry_after_s=1.0)


async def draw(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(URL, json={"prompt": "a cat", "user": "anna", **fields})


@pytest.mark.parametrize(
    ("error", "fields", "outcome", "deadline"),
    [
        (None, {}, "ok", "met"),
        (None, {"n": 1000}, "invalid_value", None),
        (REFUSED_IMAGE, {}, "content_policy_violation", None),
        (StageFailed("x", stage="s"), {}, "stage_failed", "missed"),
        (Overloaded("x", retry_after_s=1.0), {}, "overloaded", "refused"),
        (TOO_LATE, {"deadline_ms": 5}, "deadline_unreachable", "refused"),
        (KeyError("x"), {}, "internal_error", "missed"),
    ],
)
async def test_the_outcome_and_the_deadline(
    client_of: ClientOf,
    recorded: Recorder,
    error: Exception | None,
    fields: dict[str, Any],
    outcome: str,
    deadline: str | None,
) -> None:
    await draw(client_of(services(FakeGraph(error=error))), **fields)
    assert recorded.labels(metrics.REQUESTS) == [{"outcome": outcome}]
    kind = "asked" if "deadline_ms" in fields else "default"
    expected = [] if deadline is None else [{"result": deadline, "kind": kind, "tenant": "anna"}]
    assert recorded.labels(metrics.DEADLINES) == expected
    assert len(recorded.values(metrics.REQUEST_SECONDS)) == (outcome == "ok")


async def test_images_and_their_bytes_by_where_they_come_from(
    client_of: ClientOf, recorded: Recorder
) -> None:
    client = client_of(services(result_cache={"max_bytes": 2**20}))
    first = await draw(client, n=2, seed=7)
    again = await draw(client, n=2, seed=7)
    assert again.headers["x-sluice-cache"] == "hit"
    assert recorded.total(metrics.IMAGES, source="drawn", tenant="anna") == 2
    assert recorded.total(metrics.IMAGES, source="hit", tenant="anna") == 2
    inline = len(base64.b64encode(PIXELS))
    assert recorded.total(metrics.RETURNED_BYTES, route="generations") == 4 * inline
    await client.get(first.json()["data"][0]["url"])
    assert recorded.total(metrics.RETURNED_BYTES, route="files") == len(PIXELS)


async def test_refusals_by_category_never_by_prompt(
    client_of: ClientOf, recorded: Recorder
) -> None:
    refused = await draw(client_of(services(rules=PromptRules.load())), prompt="a lot of gore")
    category = refused.json()["error"]["category"]
    await draw(client_of(services(FakeGraph(error=REFUSED_IMAGE))))
    assert recorded.labels(metrics.SAFETY_REFUSALS) == [
        {"stage": "prompt", "category": category},
        {"stage": "image", "category": "nsfw"},
    ]


async def test_what_waited_for_sleepers(client_of: ClientOf, recorded: Recorder) -> None:
    graph = FakeGraph(cold_stages=("Denoiser",), cold_start_s=4.5)
    await draw(client_of(services(graph)))
    assert recorded.values(metrics.COLD_START_SECONDS) == [graph._timings()[COLD_START]] == [4.5]
    await draw(client_of(services()))
    assert len(recorded.values(metrics.COLD_START_SECONDS)) == 1


async def test_refused_for_places_by_whose_they_are(
    client_of: ClientOf, recorded: Recorder
) -> None:
    given = services(limits={"max_queued_images": 3, "max_queued_images_per_tenant": 2})
    client = client_of(given)
    with given.generations.admission.slot("anna", 2):
        assert (await draw(client)).status_code == 429
        with given.generations.admission.slot("ben", 1):
            assert (await draw(client, user="cleo")).status_code == 429
    assert recorded.labels(metrics.ADMISSION_REFUSALS) == [
        {"reason": "tenant"},
        {"reason": "server"},
    ]


async def test_preflights(client_of: ClientOf, recorded: Recorder) -> None:
    await client_of(services()).post("/v1/images/preflight", json={"prompt": "a cat"})
    assert recorded.total(metrics.PREFLIGHTS) == 1
    assert recorded.labels(metrics.REQUESTS) == []


def test_an_answer_after_its_deadline_is_a_miss() -> None:
    assert deadline_result("ok", DUE, met=True) == "met"
    assert deadline_result("ok", DUE, met=False) == "missed"
    assert deadline_result("ok", ServiceTerms(), met=False) is None


@pytest.mark.parametrize("outcome", ["client_gone", "cancelled"])
def test_who_leaves_has_missed_no_deadline(outcome: str) -> None:
    assert deadline_result(outcome, DUE, met=False) is None


def test_every_error_is_the_servers_or_the_clients() -> None:
    for rule in ERROR_TABLE.values():
        expected = {4: None, 5: "missed"}[rule.status // 100]
        expected = "refused" if rule.status == 429 else expected
        assert deadline_result(rule.code, DUE, met=False) == expected, rule.code
