"""A request's trace, from the header to OTLP: over HTTP, with a graph that is none."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.errors import DeadlineUnreachable, StageFailed
from pipelines.tracing.spans import Event, Span
from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name
from serve.tracing.export import TraceFile, sinks
from serve.tracing.otlp import sdk_spans, to_json
from serve.tracing.recorder import Trace
from serve.tracing.store import TraceStore
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
TRACE, SPAN = "a" * 32, "b" * 16
HEADER = f"00-{TRACE}-{SPAN}-01"


def spans_of(otlp: dict[str, Any]) -> list[dict[str, Any]]:
    return otlp["resourceSpans"][0]["scopeSpans"][0]["spans"]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}


async def fetch(client: httpx.AsyncClient, trace_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/traces/{trace_id}")
    assert answer.status_code == 200, answer.text
    return spans_of(answer.json())


async def test_the_clients_trace_goes_on(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        URL, json={"prompt": "a secret cat", "n": 2, "seed": 5}, headers={"traceparent": HEADER}
    )
    assert answer.headers["x-trace-id"] == TRACE
    root, *parts = await fetch(client, TRACE)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{root['spanId']}-01"
    assert (root["name"], root["kind"]) == (f"POST {URL}", 2)
    assert root["parentSpanId"] == SPAN
    assert {part["parentSpanId"] for part in parts} == {root["spanId"]}
    assert {"read", "admit", "respond"} <= {part["name"] for part in parts}
    said = attributes(root)
    assert said["http.response.status_code"] == "200"
    assert said["http.route"] == URL
    assert said["gen_ai.request.seed"] == "5"
    assert said["gen_ai.request.choice.count"] == "2"
    assert said["sluice.outcome"] == "ok"
    assert said["sluice.deadline_met"] is True
    assert "secret" not in json.dumps([root, *parts])


async def test_without_a_header_a_trace_begins(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json={"prompt": "a cat"})
    root, *_ = await fetch(client, answer.headers["x-trace-id"])
    assert "parentSpanId" not in root


@pytest.mark.parametrize("settings", [{}, {"tracing": {"sample_ratio": 0.0}}])
async def test_what_the_client_does_not_record_is_not_recorded_here(
    graph: FakeGraph, client_of: ClientOf, settings: dict[str, Any]
) -> None:
    client = client_of(services(graph, **settings))
    header = HEADER if settings else HEADER[:-2] + "00"
    answer = await client.post(URL, json={"prompt": "a cat"}, headers={"traceparent": header})
    assert answer.headers["x-trace-id"] == TRACE
    is_recorded = bool(settings)
    assert answer.headers["traceresponse"][-2:] == ("01" if is_recorded else "00")
    assert bool(graph.jobs[0].trace) is is_recorded
    shown = await client.get(f"/v1/traces/{TRACE}")
    assert shown.status_code == (200 if is_recorded else 404)


async def test_tracing_that_is_off_records_nothing(graph: FakeGraph, client_of: ClientOf) -> None:
    client = client_of(services(graph, tracing={"enabled": False}))
    answer = await client.post(URL, json={"prompt": "a cat"}, headers={"traceparent": HEADER})
    assert answer.headers["traceresponse"].endswith("-00")
    missing = await client.get(f"/v1/traces/{TRACE}")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "trace_not_found"


async def test_failures_and_refusals_leave_a_trace(graph: FakeGraph, client_of: ClientOf) -> None:
    client = client_of(services(graph))
    graph.error = StageFailed("the decoder failed", stage="VaeDecoder")
    failed = await client.post(URL, json={"prompt": "a cat"})
    (root, *_) = await fetch(client, failed.headers["x-trace-id"])
    assert root["status"] == {"code": 2, "message": "status 500"}
    assert attributes(root)["sluice.outcome"] == "stage_failed"
    refused = await client.post(URL, json={"prompt": "a cat", "n": 99})
    (root, *parts) = await fetch(client, refused.headers["x-trace-id"])
    assert root["status"] == {"code": 0}
    admit = next(part for part in parts if part["name"] == "admit")
    assert admit["status"]["code"] == 2
    assert admit["status"]["message"].startswith("n: ")
    lost = await client.post("/v1/made/up", json={})
    (root, *_) = await fetch(client, lost.headers["x-trace-id"])
    assert root["name"] == "POST"


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b'{"prompt": "a cat", "promt": "a cat"}', 400, "invalid_value"),
        (b'{"prompt": "a cat", "n": "2"}', 400, "invalid_value"),
        (b'{"prompt": ', 400, "invalid_value"),
        (b'{"prompt": "a cat", "n": 99}', 400, "invalid_value"),
        (b'{"prompt": "a cat", "model": "other"}', 404, "model_not_found"),
        (b'{"prompt": "%s"}' % (b"a" * 2**21), 413, "request_too_large"),
    ],
    ids=["unknown", "type", "json", "limit", "model", "size"],
)
@pytest.mark.parametrize("path", [URL, "/v1/images/preflight"])
async def test_wherever_a_mistake_is_found_its_code_is_the_outcome(
    client: httpx.AsyncClient, path: str, body: bytes, status: int, outcome: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, outcome)
    (listed,) = (await client.get("/traces?failed=1")).json()["data"]
    assert (listed["status"], listed["outcome"]) == (status, outcome)
    assert listed["tenant"] is None


async def test_what_the_framework_refuses_has_a_code_too(client: httpx.AsyncClient) -> None:
    await client.post("/v1/made/up", json={})
    (listed,) = (await client.get("/traces?failed=1")).json()["data"]
    assert (listed["status"], listed["outcome"]) == (404, "not_found")


async def test_a_refused_deadline_is_not_a_missed_one(
    graph: FakeGraph, client: httpx.AsyncClient
) -> None:
    graph.error = DeadlineUnreachable("x", earliest_s=4.25, retry_after_s=None)
    refused = await client.post(URL, json={"prompt": "a cat", "deadline_ms": 15})
    assert refused.status_code == 429
    (root, *_) = await fetch(client, refused.headers["x-trace-id"])
    assert attributes(root)["sluice.deadline_ms"] == "15"
    assert "sluice.deadline_met" not in attributes(root)
    assert (await client.get("/traces?missed=1")).json()["data"] == []
    (listed,) = (await client.get("/traces?failed=1")).json()["data"]
    assert (listed["outcome"], listed["deadline_met"]) == ("deadline_unreachable", None)


async def test_prompts_are_recorded_only_where_that_is_switched_on(
    graph: FakeGraph, client_of: ClientOf
) -> None:
    client = client_of(services(graph, tracing={"record_prompts": True}))
    answer = await client.post(URL, json={"prompt": "a cat"})
    (root, *_) = await fetch(client, answer.headers["x-trace-id"])
    assert attributes(root)["sluice.prompt"] == "a cat"


async def test_the_log_names_the_trace(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve")
    await client.post(URL, json={"prompt": "a secret cat"}, headers={"traceparent": HEADER})
    assert f"trace={TRACE}" in caplog.text
    assert "secret" not in caplog.text


async def test_who_shares_a_drawing_is_linked_to_it(graph: FakeGraph, client_of: ClientOf) -> None:
    graph.hangs = True
    given = services(graph)
    client = client_of(given)
    body = {"prompt": "a cat", "seed": 1}
    first = asyncio.create_task(client.post(URL, json=body))
    await graph.entered.acquire()
    second = asyncio.create_task(client.post(URL, json=body))
    while sum(each.waiters for each in given.generations.sharing._flights._flights.values()) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    graph.go.set()
    leader, follower = await first, await second
    spans = await fetch(client, follower.headers["x-trace-id"])
    (shared,) = (span for span in spans if span["name"] == "shared")
    assert [link["traceId"] for link in shared["links"]] == [leader.headers["x-trace-id"]]
    assert attributes(spans[0])["sluice.cache"] == "shared"


def tree(name: str = "root", children: int = 0) -> Span:
    parts = tuple(Span(name=f"part {i}", start_ns=1, end_ns=2) for i in range(children))
    return Span(
        name=name,
        id="c" * 16,
        start_ns=1_700_000_000_000_000_001,
        end_ns=1_700_000_000_500_000_000,
        attributes={"s": "x", "i": 2**53 + 1, "f": 0.5, "b": False},
        events=(Event("checkpoint", 5, {"sluice.step": 5}),),
        links=(HEADER, "nonsense"),
        error="it failed",
        children=parts,
    )


def test_otlp_json_is_as_the_standard_has_it() -> None:
    who = {"service.name": "sluice"}
    trace = Trace(trace_id=TRACE, parent_id=SPAN, root=tree(children=1), resource=who)
    otlp = to_json(sdk_spans(trace))
    resource = otlp["resourceSpans"][0]["resource"]
    assert resource["attributes"] == [{"key": "service.name", "value": {"stringValue": "sluice"}}]
    root, part = spans_of(otlp)
    assert (root["traceId"], root["spanId"], root["parentSpanId"]) == (TRACE, "c" * 16, SPAN)
    assert root["startTimeUnixNano"] == "1700000000000000001"
    assert {item["key"]: item["value"] for item in root["attributes"]} == {
        "s": {"stringValue": "x"},
        "i": {"intValue": "9007199254740993"},
        "f": {"doubleValue": 0.5},
        "b": {"boolValue": False},
    }
    assert root["events"][0]["attributes"][0]["value"] == {"intValue": "5"}
    assert root["links"] == [{"traceId": TRACE, "spanId": SPAN}]
    assert root["status"] == {"code": 2, "message": "it failed"}
    assert part["parentSpanId"] == root["spanId"]
    assert len(part["spanId"]) == 16


def test_the_store_keeps_the_latest_whole() -> None:
    store = TraceStore(max_spans=7, max_bytes=2**30)
    for number in range(4):
        trace_id = f"{number}" * 32
        store.put(Trace(trace_id=trace_id, parent_id=None, root=tree(children=2)))
    assert [trace.trace_id[0] for trace in store.latest()] == ["3", "2"]
    assert store.get("0" * 32) == []
    store.put(Trace(trace_id="3" * 32, parent_id=SPAN, root=tree("again")))
    assert [trace.root.name for trace in store.get("3" * 32)] == ["root", "again"]
    huge = Trace(trace_id="9" * 32, parent_id=None, root=tree(children=50))
    store.put(huge)
    assert list(store.latest()) == [huge]


def test_one_trace_of_many_requests_is_bounded_too() -> None:
    store = TraceStore(max_spans=7, max_bytes=2**30)
    for number in range(9):
        store.put(Trace(trace_id=TRACE, parent_id=SPAN, root=tree(str(number), children=2)))
    assert [trace.root.name for trace in store.get(TRACE)] == ["7", "8"]


def test_a_file_has_a_line_for_each_trace(tmp_path: Path) -> None:
    path = tmp_path / "new" / "traces.jsonl"
    file = TraceFile(path)
    for number in range(3):
        file.put(Trace(trace_id=f"{number}" * 32, parent_id=None, root=tree()))
    file.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [spans_of(line)[0]["traceId"][0] for line in lines] == ["0", "1", "2"]


def test_a_file_that_cannot_be_written_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TraceFile(tmp_path)
    file.put(Trace(trace_id=TRACE, parent_id=None, root=tree()))
    file.close()
    assert "tracing.file" in caplog.text


def test_a_collector_is_used_where_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from serve.settings.settings import TracingConfig

    assert sinks(TracingConfig()) == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert len(sinks(TracingConfig())) == 1
    assert sinks(TracingConfig(enabled=False)) == []


async def test_a_browser_gets_pages(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json={"prompt": "a secret cat", "user": "anna"})
    trace_id = answer.headers["x-trace-id"]
    browser = {"accept": "text/html,application/xhtml+xml"}
    page = await client.get(f"/v1/traces/{trace_id}", headers=browser)
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert trace_id in page.text
    assert "secret" not in page.text
    as_json = await client.get(f"/v1/traces/{trace_id}?format=json", headers=browser)
    assert spans_of(as_json.json())[0]["traceId"] == trace_id
    listed = await client.get("/traces", headers=browser)
    assert trace_id in listed.text
    assert "user-" in listed.text


@pytest.mark.parametrize("header", [None, "x-tenant"])
async def test_a_tenant_is_named_to_others_only_behind_a_gateway(
    client_of: ClientOf, header: str | None
) -> None:
    """What is recorded, and goes to the operator's sinks, has the name all the same."""
    given = services(tenants={"header": header})
    client = client_of(given)
    body, headers = {"prompt": "a cat", "user": "anna"}, {"x-tenant": "anna"}
    trace_id = (await client.post(URL, json=body, headers=headers)).headers["x-trace-id"]
    shown = shown_name("anna", Tenants(header=header))
    for path in ("/traces", f"/v1/traces/{trace_id}"):
        for accept in ("application/json", "text/html"):
            answer = await client.get(path, headers={"accept": accept})
            assert shown in answer.text
            assert ("anna" in answer.text) is (header is not None)
    (recorded,) = given.traces.get(trace_id)
    assert recorded.root.attributes["sluice.tenant"] == "anna"


async def test_the_list_is_filtered(graph: FakeGraph, client: httpx.AsyncClient) -> None:
    fine = await client.post(URL, json={"prompt": "a cat", "user": "anna"})
    graph.error = StageFailed("the decoder failed", stage="VaeDecoder")
    failed = await client.post(URL, json={"prompt": "a cat", "user": "bert"})

    async def ids(query: str) -> list[str]:
        listed = (await client.get(f"/traces?{query}")).json()
        assert listed["object"] == "list"
        return [each["trace_id"] for each in listed["data"]]

    both = [answer.headers["x-trace-id"] for answer in (failed, fine)]
    assert await ids("") == both
    assert await ids("failed=1") == both[:1]
    assert await ids("tenant=anna") == both[1:]
    assert await ids(f"tenant={shown_name('anna', Tenants())}") == both[1:]
    assert await ids("tenant=anna&failed=1") == []
    wrong = await client.get("/traces?slow=maybe")
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "slow"


async def test_a_list_can_be_switched_off(graph: FakeGraph, client_of: ClientOf) -> None:
    client = client_of(services(graph, tracing={"listed": False}))
    answer = await client.post(URL, json={"prompt": "a cat"})
    assert (await client.get("/traces")).status_code == 404
    assert (await client.get(f"/v1/traces/{answer.headers['x-trace-id']}")).status_code == 200
