"""Errors as pages for browsers, and as JSON for everybody else."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serve.middleware.error_page import ErrorPageMiddleware
from serve.settings.sections import TracingConfig
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

TRACE = "/v1/traces/" + "a" * 32
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def assert_page(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    for each in words:
        assert each in answer.text


async def test_a_trace_that_is_not_kept(client: httpx.AsyncClient):
    page = await client.get(TRACE, headers=BROWSER)
    room = f"{TracingConfig().max_spans:,} spans"
    assert_page(page, 404, "This trace is not kept", room, 'href="../../traces"')
    assert page.headers["x-request-id"]
    for answer in (
        await client.get(TRACE),
        await client.get(f"{TRACE}?format=json", headers=BROWSER),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "trace_not_found"
    assert_page(await client.get(f"{TRACE}?format=html"), 404, "This trace is not kept")


async def test_traces_that_are_not_recorded_or_listed(graph: FakeGraph, client_of: ClientOf):
    client = client_of(services(graph, tracing={"listed": False, "enabled": False}))
    listed = await client.get("/traces", headers=BROWSER)
    assert_page(listed, 404, "Traces are not listed")
    one = await client.get(TRACE, headers=BROWSER)
    assert_page(one, 404, "No traces are recorded here")
    assert "Recent traces" not in one.text


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing/here"])
async def test_where_there_is_nothing(client: httpx.AsyncClient, path: str):
    page = await client.get(path, headers=BROWSER)
    assert_page(page, 404, "There is nothing here")
    assert (await client.get(path)).json()["error"]["code"] == "not_found"


async def test_a_page_to_draw_on_that_is_switched_off(graph: FakeGraph, client_of: ClientOf):
    client = client_of(services(graph, page={"enabled": False}))
    assert_page(await client.get("/", headers=BROWSER), 404, "There is nothing here", 'href="docs"')


async def test_a_wrong_parameter(client: httpx.AsyncClient):
    page = await client.get("/traces?slow=maybe", headers=BROWSER)
    assert_page(page, 400, "Bad Request", "Slow: ")


async def test_what_clients_wrote_is_text(client: httpx.AsyncClient):
    page = await client.get("/%3Cscript%3Ealert(1)%3C/script%3E", headers=BROWSER)
    assert_page(page, 404, "&lt;script&gt;")
    assert "<script>" not in page.text


@pytest.mark.parametrize("path", ["/v1/jobs/job_1", "/v1/files/none", "/v1/models/other"])
async def test_what_answers_programs_alone_stays_json(client: httpx.AsyncClient, path: str):
    answer = await client.get(path, headers=BROWSER)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


async def test_what_is_posted_is_answered_as_ever(client: httpx.AsyncClient):
    answer = await client.post("/nothing", headers=BROWSER)
    assert answer.json()["error"]["code"] == "not_found"


async def test_head_has_no_body(client: httpx.AsyncClient):
    answer = await client.head(TRACE, headers=BROWSER)
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize("path", ["/readyz", "/health"])
async def test_json_that_is_no_error_stays_what_it_is(
    path: str, graph: FakeGraph, client: httpx.AsyncClient
):
    graph.stages = {"TextEncoder": False}
    answer = await client.get(path, headers=BROWSER)
    assert answer.status_code == 503
    assert answer.json()["stages"] == graph.stages


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("TEXT/HTML", True),
        ("application/json, text/html ;level=1", True),
        ("text/html;q=0.1", True),
        ("text/html;q=0", False),
        ("text/html; charset=utf-8; Q=0.00, */*", False),
        ("text/htmlish", False),
        ("application/x-text/html", False),
    ],
)
async def test_what_a_header_asks_for(client: httpx.AsyncClient, accept: str, is_page: bool):
    answer = await client.get("/nothing", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/html") is is_page


async def test_a_header_that_comes_twice_stays_so():
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = {"error": {"code": "not_found", "message": "there is nothing"}}
        answer = JSONResponse(body, 404)
        answer.headers.append("vary", "accept")
        answer.headers.append("vary", "origin")
        await answer(scope, receive, send)

    paged = ErrorPageMiddleware(app, tracing=TracingConfig())
    transport = httpx.ASGITransport(app=paged)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = await client.get("/nothing", headers=BROWSER)
    assert_page(page, 404, "There is nothing here")
    assert page.headers.get_list("vary") == ["accept", "origin"]
    assert len(page.headers.get_list("content-type")) == 1
