"""Every page of the product in a browser that can reach nothing but this server."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Request, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from serve.http import create_app
from serve.icon import data_url
from tests.cluster import free_port
from tests.serve.browser import chromium, needs_chromium
from tests.serve.fakes import FakeGraph, services
from tests.serve.pages import filled_paths

pytestmark = needs_chromium

HOST = "images.example"
PREFIX = "/served"
HERE = f"http://{HOST}"


@contextmanager
def served(app: Starlette) -> Generator[int]:
    """The application on a port, in a thread."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield port
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def pages() -> Iterator[tuple[Browser, list[str]]]:
    """A browser for which the server is a host of its own and all others are nowhere, and the paths
    of everything that the server shows as a page, below a prefix."""
    graph = FakeGraph()
    app = create_app(services(graph))
    file_id = graph.store.put(b"bytes", "image/png")
    with served(Starlette(routes=[Mount(PREFIX, app)])) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{PREFIX}") as http:
            drawn = http.post("/v1/images/generations", json={"prompt": "a"})
            trace_id = drawn.headers["x-trace-id"]
            fill = {"file_id": file_id, "model_id": "test-model", "trace_id": trace_id}
            as_page = {"accept": "text/html"}
            found = [
                path
                for path in filled_paths(app, fill)
                if "html" in http.get(path, headers=as_page).headers.get("content-type", "")
            ]
        rules = f"MAP {HOST}:80 127.0.0.1:{port}, MAP * ~NOTFOUND"
        with chromium(f"--host-resolver-rules={rules}") as browser:
            yield browser, found


def test_there_are_these(pages: tuple[Browser, list[str]]):
    kinds = {path.rpartition("/")[0] or path for path in pages[1]}
    assert kinds == {"/", "/docs", "/redoc", "/traces", "/v1/traces"}


def test_no_page_asks_another_server(pages: tuple[Browser, list[str]]):
    browser, paths = pages
    for path in paths:
        page = browser.new_page()
        left: list[str] = []
        wrong: list[str] = []

        def is_asked(request: Request, left: list[str] = left) -> None:
            if not request.url.startswith((HERE, "data:", f"blob:{HERE}")):
                left.append(request.url)

        def is_blocked(request: Request, left: list[str] = left) -> None:
            if request.failure == "csp":  # by the page's own policy, before it left
                left.remove(request.url)

        page.on("request", is_asked)
        page.on("requestfailed", is_blocked)
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        answer = page.goto(f"{HERE}{PREFIX}{path}", wait_until="networkidle")
        assert answer is not None
        assert answer.status == 200
        expect(page.get_by_text("Sluice").first).to_be_visible()
        assert page.locator("link[rel~=icon]").get_attribute("href") == data_url()
        assert (path, left, wrong) == (path, [], [])
        page.close()


def test_the_docs_show_the_routes_and_can_try_them(pages: tuple[Browser, list[str]]):
    page = pages[0].new_page()
    page.goto(f"{HERE}{PREFIX}/docs")
    page.get_by_text("/healthz", exact=True).first.click()  # GET; HEAD is the next
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")
    page.goto(f"{HERE}{PREFIX}/redoc")
    expect(page.get_by_text("/v1/images/generations").first).to_be_visible()
    page.close()
