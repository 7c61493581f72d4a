"""The page over the application itself, its graph alone a fake."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from deployments.graph.running_stages import Running
from deployments.storage.store import StoredFile
from pipelines.moderation import PromptRules
from serve.http import create_app
from serve.jobs.store.sqlite import SqliteStore
from tests.cluster import free_port
from tests.deployments.receipts import STAGES, file_with, receipt
from tests.serve.browser import needs_chromium
from tests.serve.fakes import FakeStore, services
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.page.fake_api import picture

pytestmark = needs_chromium

PROMPT = "a red circle left of a blue square"
STEPS = 12


class Pictures(FakeStore):
    """Every file that is stored is a picture that a browser can show."""

    def get(self, file_id: str) -> StoredFile:
        super().get(file_id)
        return StoredFile(data=picture({"prompt": PROMPT}), content_type="image/png")


@dataclass
class Application:
    """One that runs in a thread, with its graph."""

    address: str
    graph: SteppingGraph
    loop: asyncio.AbstractEventLoop

    def allow(self, steps: int = 10_000) -> None:
        """Let images go so many steps on."""
        self.loop.call_soon_threadsafe(self.graph.allow, steps)


@pytest.fixture
def application(tmp_path: Path) -> Generator[Application]:
    began: list[asyncio.AbstractEventLoop] = []
    graph, port, ready = SteppingGraph(store=Pictures()), free_port(), threading.Event()
    servers: list[uvicorn.Server] = []

    async def ask() -> Running:
        return Running(STAGES)

    async def serve() -> None:
        store = SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=1000.0)
        settings: dict[str, Any] = {"jobs.poll_s": 0.01}
        given = services(graph, rules=PromptRules.load(), job_store=store, **settings)
        given.running = ask
        assert given.jobs is not None
        await given.jobs.open()
        config = uvicorn.Config(create_app(given), port=port, log_level="error")
        config.timeout_graceful_shutdown = 1
        servers.append(uvicorn.Server(config))
        began.append(asyncio.get_running_loop())
        ready.set()
        await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    while not servers[0].started:
        assert thread.is_alive()
    application = Application(f"http://localhost:{port}", graph, began[0])
    yield application
    application.allow()
    servers[0].should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Browser, application: Application) -> Generator[Page]:
    context = browser.new_context(base_url=application.address)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto("/")
    yield page
    context.close()
    assert wrong == []


def draw(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()


def test_from_typing_to_the_picture_and_its_trace(page: Page, application: Application):
    draw(page)
    application.allow(5)
    about, picture = page.locator("#about"), page.locator("#picture")
    expect(about).to_contain_text(f"Step 5 of {STEPS}")
    page.reload()
    expect(about).to_contain_text(f"Step 5 of {STEPS}")
    application.allow()
    expect(picture).to_have_attribute("src", re.compile(r"^v1/files/[0-9a-f]{32}$"))
    expect(picture).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("QualityStandard")
    expect(page.locator("#facts")).to_contain_text("0.5s device · 0.25 MP·steps")
    page.reload()
    expect(picture).to_be_visible()
    page.get_by_role("link", name="Trace", exact=True).click()
    expect(page.get_by_text("POST /v1/jobs").first).to_be_visible()


def test_cancel(page: Page, application: Application):
    draw(page)
    application.allow(2)
    expect(page.locator("#about")).to_contain_text(f"Step 2 of {STEPS}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#state")).to_have_text("Cancelled")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_role("heading", name="Nothing drawn yet")).to_be_visible()


def test_good_enough(page: Page, application: Application):
    draw(page)
    application.allow(4)
    expect(page.locator("#about")).to_contain_text(f"Step 4 of {STEPS}")
    page.get_by_role("button", name="Good enough").click()
    expect(page.locator("#about")).to_contain_text("Finishing from here")
    application.allow(1)
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("Steps5")
    application.allow()
    for name in ("Draw again", "Vary the seed"):
        page.get_by_role("button", name=name).click()
        expect(page.locator("#facts")).to_contain_text(f"Steps{STEPS}")
        expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#tiles .tile[data-state=succeeded]")).to_have_count(3)


def test_the_rules_for_prompts(page: Page):
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a beheaded man, gore")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#prompt-error")).to_contain_text("The rules for prompts refuse this.")
    expect(prompt).to_be_focused()


def test_a_receipt_is_drawn_again(page: Page, application: Application):
    file = {"name": "cat.png", "mimeType": "image/png", "buffer": file_with(receipt(), "png")}
    page.locator("#receipt-file").set_input_files([file])  # type: ignore[list-item]
    dialog = page.get_by_role("dialog", name="Receipt")
    expect(dialog).to_contain_text("This server would draw the same file again.")
    expect(dialog).to_contain_text("Prompta cat on a mat", use_inner_text=False)
    dialog.get_by_role("button", name="Draw it again").click()
    expect(page.locator("#facts")).to_contain_text("Seed6")
    expect(page.locator("#facts")).to_contain_text("Size80 × 64")
    expect(page.locator("#facts")).to_contain_text("Withoutblurry")


def test_a_file_without_a_receipt(page: Page):
    file = {"name": "none.png", "mimeType": "image/png", "buffer": picture({"prompt": PROMPT})}
    page.locator("#receipt-file").set_input_files([file])  # type: ignore[list-item]
    said = page.get_by_role("dialog").get_by_role("alert")
    expect(said).to_contain_text("No receipt can be read from this file.")
