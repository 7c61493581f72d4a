"""Deadlines, priorities, tenants and exact sharing over HTTP."""

from __future__ import annotations

import asyncio
import logging
from itertools import chain, repeat
from typing import Any

import httpx
import pytest

from deployments.metrics import declared as metrics
from pipelines.contracts import ServiceTerms
from pipelines.errors import DeadlineUnreachable
from tests.recorder import Recorder, recorded
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

__all__ = ["recorded"]

URL = "/v1/images/generations"
ARRIVED = 1_800_000_000.0
EXACT = {"prompt": "a cat", "seed": 1}


def arrived() -> float:
    return ARRIVED


async def terms_of(
    client_of: ClientOf,
    body: dict[str, Any],
    headers: list[tuple[str, str]] | None = None,
    **settings: Any,
) -> ServiceTerms:
    """The terms that reach the graph."""
    graph = FakeGraph()
    client = client_of(services(graph, now=arrived, **settings))
    response = await client.post(URL, json={"prompt": "a cat", **body}, headers=headers)
    assert response.status_code == 200, response.text
    return graph.jobs[0].terms


class TestTerms:
    async def test_by_default(self, client_of: ClientOf):
        assert await terms_of(client_of, {}) == ServiceTerms(deadline=ARRIVED + 30.0)

    async def test_as_the_request_says(self, client_of: ClientOf):
        body = {"deadline_ms": 2500, "priority": 4, "user": "u-1"}
        assert await terms_of(client_of, body) == ServiceTerms(
            tenant="u-1", deadline=ARRIVED + 2.5, priority=4, refuses_late=True
        )

    async def test_best_effort(self, client_of: ClientOf):
        deadlines = {"unreachable": "best_effort"}
        terms = await terms_of(client_of, {"deadline_ms": 9}, deadlines=deadlines)
        assert not terms.refuses_late

    async def test_the_gateway_names_the_tenant(self, client_of: ClientOf):
        tenants, body = {"header": "X-Tenant"}, {"user": "u-1"}
        named = await terms_of(client_of, body, [("x-tenant", "acme")], tenants=tenants)
        assert named.tenant == "acme"
        assert (await terms_of(client_of, body, tenants=tenants)).tenant == ""

    async def test_a_tenant_given_twice_is_refused(self, client_of: ClientOf):
        client = client_of(services(tenants={"header": "x-tenant"}))
        headers = [("x-tenant", "acme"), ("x-tenant", "globex")]
        response = await client.post(URL, json={"prompt": "a cat"}, headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "x-tenant"


class TestUnreachable:
    async def refused(
        self, client_of: ClientOf, retry_after_s: float | None, *, took_s: float = 0.0
    ) -> httpx.Response:
        ticks = iter([ARRIVED, *[ARRIVED + took_s] * 2])
        error = DeadlineUnreachable("x", earliest_s=4.25, retry_after_s=retry_after_s)
        client = client_of(services(FakeGraph(error=error), now=lambda: next(ticks)))
        return await client.post(URL, json={"prompt": "a cat", "deadline_ms": 1000})

    async def test_the_answer_names_the_shortest_deadline(self, client_of: ClientOf):
        response = await self.refused(client_of, 3.0)
        assert response.status_code == 429
        assert response.json()["error"] == {
            "message": "deadline_ms: 1000 cannot be met;"
            " the shortest that could be promised now is 4250",
            "type": "overloaded_error",
            "param": "deadline_ms",
            "code": "deadline_unreachable",
            "earliest_deadline_ms": 4250,
        }
        assert response.headers["retry-after-ms"] == "3000"
        assert response.headers["x-should-retry"] == "true"

    async def test_what_has_passed_since_the_arrival_counts(self, client_of: ClientOf):
        response = await self.refused(client_of, None, took_s=0.5)
        assert response.json()["error"]["earliest_deadline_ms"] == 4750
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers


class TestFewerSteps:
    async def test_each_image_says_how_many_were_run(self, client_of: ClientOf):
        client = client_of(services(FakeGraph(steps_run=7)))
        body = {"prompt": "a cat", "min_steps": 5, "n": 2}
        answer = (await client.post(URL, json=body)).json()
        assert [image["steps"] for image in answer["data"]] == [7, 7]
        assert answer["warnings"] == [
            f"min_steps: image {index} was drawn in 7 of 12 steps, to keep the deadline"
            for index in range(2)
        ]

    async def test_all_steps_are_no_reason_to_warn(self, client: httpx.AsyncClient):
        answer = (await client.post(URL, json={"prompt": "a cat", "min_steps": 5})).json()
        assert answer["warnings"] == []

    async def test_nor_is_a_plan_that_skips(self, client_of: ClientOf):
        client = client_of(services(FakeGraph(steps_run=7)))
        answer = (await client.post(URL, json={"prompt": "a cat", "quality": "low"})).json()
        assert (answer["quality"], answer["data"][0]["steps"]) == ("low", 7)
        assert answer["warnings"] == []


class TestPunctuality:
    """What is said of a deadline is said alike everywhere, of one that was met and one that was
    missed."""

    async def answered(
        self,
        client_of: ClientOf,
        took_s: float,
        *,
        deadline_ms: int | None = 900,
        default_ms: int | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        ticks = chain([ARRIVED], repeat(ARRIVED + took_s))
        given = services(
            FakeGraph(steps_run=7),
            now=lambda: next(ticks),
            deadlines={"default_ms": default_ms},
        )
        client = client_of(given)
        body = {"prompt": "a cat", "deadline_ms": deadline_ms, **fields}
        response = await client.post(URL, json=body)
        assert response.status_code == 200, response.text
        (trace,) = given.traces.get(response.headers["x-trace-id"])
        attributes = trace.root.attributes
        return {**response.json(), "trace": attributes}

    async def test_met(
        self, client_of: ClientOf, recorded: Recorder, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.INFO, logger="ray.serve")
        answer = await self.answered(client_of, 0.8999)
        assert answer["deadline_met"] is answer["trace"]["sluice.deadline_met"] is True
        assert answer["trace"]["sluice.took_ms"] == 900
        assert answer["warnings"] == []
        assert " deadline_ms=900 met=yes " in caplog.text
        assert [labels["result"] for labels in recorded.labels(metrics.DEADLINES)] == ["met"]

    async def test_missed(
        self, client_of: ClientOf, recorded: Recorder, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.INFO, logger="ray.serve")
        answer = await self.answered(client_of, 1.34)
        assert answer["deadline_met"] is answer["trace"]["sluice.deadline_met"] is False
        assert answer["trace"]["sluice.took_ms"] == 1340
        assert answer["warnings"] == ["deadline_ms: missed; the answer took 1340 ms instead of 900"]
        assert " deadline_ms=900 met=no " in caplog.text
        assert [labels["result"] for labels in recorded.labels(metrics.DEADLINES)] == ["missed"]

    async def test_a_cut_that_did_not_help_does_not_say_that_it_did(self, client_of: ClientOf):
        answer = await self.answered(client_of, 1.34, min_steps=5)
        assert answer["warnings"] == [
            "deadline_ms: missed; the answer took 1340 ms instead of 900",
            "min_steps: image 0 was drawn in 7 of 12 steps, and the deadline was missed all the"
            " same",
        ]
        assert not any("to keep" in warning for warning in answer["warnings"])

    @pytest.mark.parametrize(("took_s", "met"), [(29.0, True), (31.0, False)])
    async def test_the_servers_default_is_a_deadline_too(
        self, client_of: ClientOf, took_s: float, met: bool
    ):
        answer = await self.answered(client_of, took_s, deadline_ms=None, default_ms=30_000)
        assert answer["deadline_met"] is met

    async def test_without_one_nothing_is_said(self, client_of: ClientOf, recorded: Recorder):
        answer = await self.answered(client_of, 31.0, deadline_ms=None)
        assert "deadline_met" not in answer
        assert "sluice.deadline_met" not in answer["trace"]
        assert answer["warnings"] == []
        assert recorded.labels(metrics.DEADLINES) == []


class TestSharing:
    async def test_equal_requests_at_the_same_time(self, client_of: ClientOf):
        graph = FakeGraph(hangs=True)
        given = services(graph)
        client = client_of(given)
        first = asyncio.create_task(client.post(URL, json=EXACT))
        await graph.entered.acquire()
        second = asyncio.create_task(client.post(URL, json=EXACT))
        for _ in range(50):  # the second gets as far as it can
            await asyncio.sleep(0)
        assert given.generations.admission.in_flight == 2
        graph.go.set()
        answers = await asyncio.gather(first, second)
        assert len(graph.jobs) == 1
        assert answers[0].json()["data"] == answers[1].json()["data"]
        assert "x-sluice-cache" not in answers[0].headers
        assert answers[1].headers["x-sluice-cache"] == "shared"
        assert answers[0].headers["x-request-id"] != answers[1].headers["x-request-id"]

    async def test_an_equal_request_later(self, client_of: ClientOf):
        graph = FakeGraph()
        client = client_of(services(graph, result_cache={"max_bytes": 1 << 20}))
        first, second = [await client.post(URL, json=EXACT) for _ in range(2)]
        assert len(graph.jobs) == 1
        assert first.json()["data"] == second.json()["data"]
        assert second.headers["x-sluice-cache"] == "hit"
        other = await client.post(URL, json={**EXACT, "user": "somebody else"})
        assert "x-sluice-cache" not in other.headers
        assert len(graph.jobs) == 2

    async def test_nothing_is_kept_unasked(self, client: httpx.AsyncClient, graph: FakeGraph):
        for _ in range(2):
            assert "x-sluice-cache" not in (await client.post(URL, json=EXACT)).headers
        assert len(graph.jobs) == 2


async def test_a_tenants_flood_is_refused_and_the_others_are_served(client_of: ClientOf):
    graph = FakeGraph(hangs=True)
    limits = {"max_queued_images": 3, "max_queued_images_per_tenant": 2}
    client = client_of(services(graph, limits=limits))
    flood = {"prompt": "a cat", "user": "flood"}
    waiting = [asyncio.create_task(client.post(URL, json=flood)) for _ in range(2)]
    for _ in waiting:
        await graph.entered.acquire()
    refused = await client.post(URL, json=flood)
    assert refused.status_code == 429
    assert "2 of your images" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    other = asyncio.create_task(client.post(URL, json={**flood, "user": "other"}))
    await graph.entered.acquire()
    graph.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting, other)] == [200] * 3


async def test_the_api_describes_itself(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    described = document["paths"][URL]["post"]
    fields = document["components"]["schemas"]["ImageGenerationRequest"]["properties"]
    assert all(fields[name]["description"] for name in ("deadline_ms", "priority", "min_steps"))
    assert "x-sluice-cache" in described["responses"]["200"]["headers"]
    assert "deadline_unreachable" in described["responses"]["429"]["description"]


@pytest.mark.parametrize("name", ["deadline_ms", "priority", "min_steps"])
async def test_null_means_absent(client: httpx.AsyncClient, graph: FakeGraph, name: str):
    assert (await client.post(URL, json={"prompt": "a cat", name: None})).status_code == 200
    assert graph.jobs[0].terms.refuses_late is False
