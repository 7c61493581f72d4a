"""The page in headless Chromium, over an API that does what a test tells it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.serve.browser import chromium
from tests.serve.page.fake_api import FakeApi, served

Opens = Callable[..., Page]

USER = f"page-{'0' * 32}"

_ANSWERED_NO = re.compile(r"Failed to load resource: (the server responded|net::ERR_)")
"""What Chromium writes for each answer that is not a success."""


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def address(api: FakeApi) -> Generator[str]:
    with served(api) as address:
        yield address


@pytest.fixture
def new_context(browser: Browser, address: str) -> Generator[Callable[..., BrowserContext]]:
    """Makes a browser of its own; no page in it may have an error, nor ask anybody else."""
    wrong: list[str] = []
    asked: list[str] = []
    contexts: list[BrowserContext] = []

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: None if _ANSWERED_NO.match(said.text) else wrong.append(said.text),
        )
        page.on("request", lambda request: asked.append(request.url))

    def made(**options: object) -> BrowserContext:
        viewport = options.pop("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(base_url=address, viewport=viewport, **options)  # type: ignore[arg-type]
        context.on("page", watch)
        contexts.append(context)
        return context

    yield made
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


@pytest.fixture
def opens(new_context: Callable[..., BrowserContext]) -> Opens:
    """Opens the page, as somebody whose id is `USER`, when it has heard of its jobs."""

    def opened(**options: object) -> Page:
        context = new_context(**options)
        context.add_init_script(  # not before it is anywhere
            f"if (location.host) localStorage.setItem('sluice.user', '{USER}')"
        )
        return begun(context.new_page())

    return opened


def begun(page: Page, path: str = "/") -> Page:
    page.goto(path)
    expect(page.locator("#tiles[aria-busy]")).to_have_count(0)
    return page


@pytest.fixture
def page(opens: Opens) -> Page:
    return opens()
