"""The pages in headless Chromium, Debian's: what a person sees, and can do with a keyboard."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from dataclasses import replace
from http import HTTPStatus
from typing import Literal

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from serve.settings.sections import TracingConfig
from serve.tracing.views.error_page import error_page
from serve.tracing.views.page import content_security_policy, list_page, trace_page
from serve.tracing.views.summary import TraceFilters, summarise
from tests.serve.browser import chromium, needs_chromium
from tests.serve.tracing.job_sample import job_sample
from tests.serve.tracing.sample import TRACE_ID, large, others, sample

HOST = "http://localhost"
TRACE_URL = f"{HOST}/v1/traces/{TRACE_ID}"
pytestmark = needs_chromium

ROWS = 75
TICKS = 21

Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opens(browser: Browser) -> Generator[Opens]:
    """Opens a page as the server would send it; nothing else may be asked for, or go wrong."""
    asked: list[str] = []
    wrong: list[str] = []
    contexts: list[BrowserContext] = []

    def opened(html: str, url: str = TRACE_URL, **options: object) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()

        def answer(route: Route) -> None:
            asked.append(route.request.url)
            headers = {"content-security-policy": content_security_policy()}
            route.fulfill(body=html, content_type="text/html; charset=utf-8", headers=headers)

        context.route("**/*", answer)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        assert asked == [url]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert all(url.startswith(HOST) for url in asked)


@pytest.fixture
def page(opens: Opens) -> Page:
    return opens(trace_page(sample()))


def focused(page: Page) -> str:
    """The label of the row that has the focus."""
    return page.evaluate("document.activeElement.getAttribute('aria-label') || ''")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_all_rows_are_there_and_stretches_are_closed(page: Page):
    expect(page.locator('[role="treeitem"][id]')).to_have_count(ROWS)
    expect(page.locator(".kind-tick:visible")).to_have_count(0)
    expect(page.get_by_text("Denoiser lost its replica").first).to_be_visible()


def test_a_stretch_opens_to_its_ticks_and_a_tick_to_who_was_in_it(page: Page):
    page.locator(".row", has_text="steps 1 to 9").first.locator(".label").click()
    ticks = page.locator(".kind-tick:visible")
    expect(ticks).to_have_count(3)
    ticks.first.locator(".label").click()
    link = page.locator(".other a:visible")
    expect(link).to_have_count(1)
    expect(link).to_have_text(others(1367))
    link.click()
    expect(page).to_have_url(f"{HOST}/v1/traces/{others(1367)}")


def test_the_keyboard_moves_opens_and_closes(page: Page):
    page.locator('[role="treeitem"]').first.focus()
    assert focused(page).startswith("POST /v1/images/generations")
    press(page, "ArrowDown")
    assert focused(page).startswith("admit")
    press(page, "ArrowDown", "ArrowDown")
    assert focused(page).startswith("denoise, attempt 1")
    press(page, "ArrowLeft")
    expect(page.locator(":focus")).to_have_attribute("aria-expanded", "false")
    press(page, "ArrowDown")
    assert focused(page).startswith("finish")
    press(page, "ArrowUp", "ArrowRight", "ArrowRight")
    assert focused(page).startswith("transfer")
    press(page, "ArrowLeft")
    assert focused(page).startswith("denoise, attempt 1")
    press(page, "End")
    assert focused(page).startswith("respond")
    press(page, "Home", "Enter")
    expect(page.locator('[role="treeitem"]:visible')).to_have_count(1)
    press(page, "Enter")
    expect(page.locator(".row.kind-paused:visible")).to_have_count(2)


def test_a_link_in_a_tick_is_followed_with_the_keyboard(page: Page):
    page.locator("[aria-label^='denoise.run, steps 1 to 9']").focus()
    press(page, "Enter", "ArrowDown", "Enter", "ArrowDown", "Enter")
    expect(page).to_have_url(f"{HOST}/v1/traces/{others(1367)}")


def test_hover_and_focus_show_attributes_and_escape_hides_them(page: Page):
    tip = page.get_by_role("tooltip")
    expect(tip).to_be_hidden()
    page.locator(".row", has_text="steps 10 to 21").first.hover()
    expect(tip).to_contain_text("sluice.replica")
    expect(tip).to_contain_text("checkpoint after step 12")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    page.locator('[role="treeitem"]').first.focus()
    press(page, "ArrowDown")
    expect(tip).to_contain_text("admit")
    press(page, "Escape")
    expect(tip).to_be_hidden()
    press(page, "Space")
    expect(page.locator(".pinned > .facts")).to_be_visible()
    press(page, "Escape")
    expect(page.locator(".pinned")).to_have_count(0)


def test_zoom_with_keys_and_buttons(page: Page):
    bar = page.locator(".kind-run .bar:visible").first
    before = bar.bounding_box()
    page.locator('[role="treeitem"]').first.focus()
    press(page, "+")
    expect(page.locator("#zoom")).to_have_text("2×")
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("#zoom")).to_have_text("4×")
    after = bar.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(4 * before["width"], rel=0.01)
    press(page, "-")
    expect(page.locator("#zoom")).to_have_text("2×")
    press(page, "0")
    expect(page.locator("#zoom")).to_have_text("1×")
    again = bar.bounding_box()
    assert again is not None
    assert (again["x"], again["width"]) == (before["x"], before["width"])


def test_zoom_to_a_span_makes_it_fill_the_sheet(page: Page):
    row = page.locator("[aria-label^='decode.run']").first
    row.focus()
    press(page, "z")
    box, sheet = row.locator(".bar").first.bounding_box(), page.locator("#sheet").bounding_box()
    assert box is not None
    assert sheet is not None
    assert box["x"] > sheet["x"]
    assert sheet["width"] * 0.3 < box["width"] < sheet["width"]
    # Nothing of a bar that is elsewhere may be drawn over the names, or widen the page.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_attempt_leads_to_the_one_that_was_lost(page: Page):
    expect(page.locator("#joins path")).to_have_count(1)
    page.get_by_text("after attempt 1").click()
    assert "failed: Denoiser lost its replica" in focused(page)


def test_the_trace_id_can_be_copied(opens: Opens):
    page = opens(trace_page(sample()), permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == TRACE_ID


def test_it_is_light_or_dark_as_the_system_is(page: Page):
    page.emulate_media(color_scheme="light")
    light = page.screenshot()
    page.emulate_media(color_scheme="dark")
    dark = page.screenshot()
    assert brightness(light) > 220
    assert brightness(dark) < 60


def brightness(png: bytes) -> float:
    with Image.open(io.BytesIO(png)) as image:
        return ImageStat.Stat(image.convert("L")).mean[0]


def test_two_thousand_spans_can_be_walked(opens: Opens):
    page = opens(trace_page(large(2000)))
    expect(page.locator('[role="treeitem"][id]')).to_have_count(2000)
    page.get_by_role("button", name="Open all").click()
    page.locator('[role="treeitem"]').first.focus()
    press(page, "End")
    expect(page.locator(":focus")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Close all").click()
    expect(page.locator(".kind-tick:visible")).to_have_count(0)


def test_without_a_script_everything_is_a_list_with_its_bars(opens: Opens):
    page = opens(trace_page(sample()), java_script_enabled=False)
    expect(page.locator(".kind-tick:visible")).to_have_count(TICKS)
    expect(page.locator(".facts").first).to_be_visible()
    box = page.locator("[aria-label^='denoise.run, steps 10 to 21'] .bar").first.bounding_box()
    assert box is not None
    assert box["width"] > 100


def test_the_list_is_filtered_by_a_form(opens: Opens):
    traces = [summarise(sample()), summarise(sample(**{"sluice.deadline_met": False}))]
    page = opens(list_page(traces, TraceFilters()), url=f"{HOST}/traces")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("deadline missed").check()
    page.get_by_label("tenant").fill("atelier")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(f"{HOST}/traces?missed=1&tenant=atelier")
    page.locator("tbody a").first.click()
    expect(page).to_have_url(TRACE_URL)


@pytest.mark.parametrize("width", [360, 700])
def test_a_narrow_window_does_not_scroll_sideways(opens: Opens, width: int):
    page = opens(trace_page(sample()))
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 720, 820, 1089, 1200, 1281, 1600])
def test_nothing_of_a_list_is_clipped(opens: Opens, width: int, scheme: Literal["light", "dark"]):
    """As seen at 1200: the outcomes were beyond the window."""
    long = "image 0 could not be stored: the store is away, and was waited for long enough"
    told = summarise(sample())
    traces = [told, summarise(job_sample()), replace(told, error=long, tenant="a-long-name" * 4)]
    page = opens(list_page(traces, TraceFilters()), url=f"{HOST}/traces")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    scrolls = page.locator(".scroll")
    assert scrolls.evaluate("each => each.scrollWidth <= each.clientWidth")
    for result in page.locator(".result").all():
        expect(result).to_be_visible()
        box = result.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width


def test_a_job_is_drawn_to_one_scale(opens: Opens):
    page = opens(trace_page(job_sample()))
    boxes = {
        name: page.locator(f"[aria-label^='{name}'] .bar").first.bounding_box()
        for name in ("job,", "POST /v1/jobs", "queue.wait", "job.run, attempt 1")
    }
    job, post, queue, lost = boxes.values()
    assert job is not None
    assert post is not None
    assert queue is not None
    assert lost is not None
    assert post["width"] < queue["width"] < lost["width"] < job["width"]
    assert lost["x"] == pytest.approx(queue["x"] + queue["width"], abs=1.5)
    expect(page.get_by_text("its runner was lost").first).to_be_visible()


@pytest.mark.parametrize("width", [360, 820, 1200])
def test_an_error_leads_on(opens: Opens, width: int):
    html = error_page(
        path=f"/v1/traces/{TRACE_ID}",
        status=HTTPStatus.NOT_FOUND,
        code="trace_not_found",
        message=f"no trace {TRACE_ID!r} is kept here; it may be too old, or was not recorded",
        tracing=TracingConfig(),
    )
    page = opens(html)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_role("heading")).to_contain_text("This trace is not kept")
    page.get_by_role("link", name="Recent traces").click()
    expect(page).to_have_url(f"{HOST}/traces")


@pytest.mark.parametrize("width", [360, 600])
def test_a_narrow_list_shows_what_was_asked_for_and_what_became_of_it(opens: Opens, width: int):
    failed = {"sluice.outcome": "stage_failed", "http.response.status_code": 500}
    traces = [summarise(sample()), summarise(sample(**{**failed, "sluice.deadline_met": False}))]
    page = opens(list_page(traces, TraceFilters()), url=f"{HOST}/traces")
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for number, trace in enumerate(traces):
        card = page.locator("tbody tr").nth(number)
        for text in (trace.outcome, trace.size, trace.model, trace.tenant):
            assert text is not None
            shown = card.get_by_text(text).first
            expect(shown).to_be_visible()
            box = shown.bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        expect(card.get_by_text("deadline")).to_be_visible()
