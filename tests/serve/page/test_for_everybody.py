"""By keyboard, by screen reader, in Chinese, in both schemes, and on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from serve.page.texts import table
from tests.serve.browser import needs_chromium
from tests.serve.page.conftest import USER, Opens, begun
from tests.serve.page.fake_api import FORBIDDEN, FakeApi
from tests.serve.page.test_drawing import PROMPT, draw
from tests.serve.page.test_receipts import DROP, RECEIPT

pytestmark = needs_chromium

MET = Path(__file__).with_name("met_on_the_page.js").read_text("utf-8")


def met(page: Page, what: str) -> list[str]:
    """What a function of `met_on_the_page.js` finds."""
    return page.evaluate(f"{MET.strip()}.{what}()")


def filled(api: FakeApi) -> None:
    """Some jobs of every kind."""
    api.adds(USER, "a yellow star", status="succeeded", n=2)
    api.adds(USER, "a green ring", status="failed")
    api.adds(USER, "a pink heart", status="cancelled")


def running(page: Page, api: FakeApi) -> str:
    page.locator("#prompt").fill(PROMPT)
    page.locator("#draw").click()
    return runs(page, api)


def runs(page: Page, api: FakeApi) -> str:
    """The job that was submitted last, now shown and at a third of its steps."""
    expect(page.locator("#stage-title")).to_have_text(PROMPT)
    api.runs(api.newest, step=4)
    expect(page.locator("#progress")).to_have_attribute("aria-valuenow", "33")
    return api.newest


@contextmanager
def held(page: Page, url: str) -> Iterator[None]:
    """Requests to `url` are not answered before its end, where they are sent."""
    routes: list[Route] = []
    is_over = False

    def hold(route: Route) -> None:
        if is_over:
            route.continue_()
        else:
            routes.append(route)

    page.route(url, hold)
    yield
    is_over = True
    for route in routes:
        route.continue_()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1280])
def test_everything_has_a_name_and_can_be_read(opens: Opens, api: FakeApi, scheme: str, width: int):
    filled(api)
    page = opens(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800}
    )
    checks: list[tuple[str, Any]] = []

    def check(state: str) -> None:
        found = [met(page, "unnamed"), met(page, "poorContrast"), overflow(page)]
        checks.extend((state, each) for each in found)

    check("gallery")
    for name in ("a yellow star, Done", "a green ring, Failed"):
        page.get_by_role("button", name=name).click()
        check(name)
    page.get_by_text("Steps and negative prompt").click()
    page.get_by_label("Other", exact=True).check()
    page.get_by_label("Steps", exact=True).fill("500")
    page.locator("#prompt").fill(PROMPT)
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("aria-invalid", "true")
    check("refused")
    with held(page, "**/v1/images/preflight"):
        page.get_by_label("Steps", exact=True).fill("")
        expect(page.locator("#estimate")).to_have_attribute("aria-busy", "true")
        check("estimated")
    with held(page, "**/v1/jobs"):
        page.locator("#draw").click()
        expect(page.locator("#draw")).to_have_attribute("aria-disabled", "true")
        check("submitted")
    runs(page, api)
    check("running")
    expect(page.locator("[data-action=cancel]")).to_be_enabled()
    page.locator("[data-action=cancel]").click()
    expect(page.locator("[data-action=cancel]")).to_be_disabled()
    check("stopping")
    page.evaluate("document.querySelector('#drop').hidden = false")
    check("dragging")
    page.evaluate("document.querySelector('#drop').hidden = true")
    api.receipt = RECEIPT
    page.evaluate(DROP)
    expect(page.get_by_role("dialog")).to_contain_text("Weights")
    check("receipt")
    assert [(state, found) for state, found in checks if found] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_pointed_at_or_has_the_focus_can_be_read(opens: Opens, api: FakeApi, scheme: str):
    filled(api)
    api.adds(USER, PROMPT, status="succeeded", guidance_scale=2.0)
    api.files.clear()
    page = opens(color_scheme=scheme, reduced_motion="reduce")
    page.get_by_role("button", name="Use settings").click()
    page.get_by_role("button", name="Delete", exact=True).click()  # asks once more
    poor: list[tuple[str, list[str]]] = []
    shown = page.locator(
        "button:visible:not(.skip), a:visible:not(.skip), summary:visible, .choice:visible,"
        " textarea:visible, input:not([type=radio]):visible"
    )
    for place in range(shown.count()):
        each = shown.nth(place)
        each.hover()
        if found := met(page, "poorContrast"):
            poor.append(("hover", found))
        each.focus()
        if found := met(page, "poorContrast"):
            poor.append(("focus", found))
    assert poor == []


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen, or the form than its column."""
    return page.evaluate(
        """() => {
          const { scrollWidth, clientWidth } = document.querySelector("#composer");
          return document.documentElement.scrollWidth - innerWidth + scrollWidth - clientWidth;
        }"""
    )


def test_with_nothing_but_the_keyboard(page: Page, api: FakeApi):
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a red circle")
    press("Control+Enter")
    expect(page.get_by_role("heading", name="a red circle")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()  # where one writes on
    api.runs(api.newest, step=2)
    keep = page.get_by_role("button", name="Good enough")
    expect(keep).to_be_enabled()
    tab_to(page, "[data-action=cancel]")
    press("Enter")
    api.cancels(api.newest)
    expect(page.get_by_role("heading", name="a red circle")).to_be_focused()
    tab_to(page, "#tiles button")
    press("Space")
    expect(page.get_by_role("heading", name="a red circle")).to_be_focused()


def tab_to(page: Page, selector: str) -> None:
    """Moves on with Tab; a loop without it is an error."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never comes to {selector}")


def test_what_has_the_focus_can_be_seen(page: Page):
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                """() => {
                  const each = document.activeElement;
                  if (each === document.body) return "";
                  const shown = each.matches("input[type=radio]") ? each.nextElementSibling : each;
                  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
                  return outlineStyle !== "none" && outlineWidth !== "0px" ? "" : each.outerHTML;
                }"""
            )
        )
    assert seen == {""}


def test_the_live_region_is_not_chatty(page: Page, api: FakeApi):
    job = draw(page, api)
    page.evaluate(
        """() => {
          window.told = [];
          new MutationObserver(() => told.push(document.querySelector("#announcer").textContent))
            .observe(document.querySelector("#announcer"), { childList: true });
        }"""
    )
    for step in range(1, 13):
        api.runs(job, step=step)
        api.previews(job, step=step)
    api.finishes(job)
    expect(page.locator("#announcer")).to_have_text("The picture is done.")
    told = page.evaluate("told")
    assert told == ["Drawing has begun.", "Half way.", "The picture is done."]


def test_nothing_moves_where_that_is_not_wanted(opens: Opens, api: FakeApi):
    page = opens(reduced_motion="reduce")
    running(page, api)
    moving = """() => [...document.querySelectorAll("*")].filter((each) => {
      const { animationName, transitionDuration } = getComputedStyle(each);
      return animationName !== "none" || transitionDuration !== "0s";
    }).length"""
    assert page.evaluate(moving) == 0


def test_in_chinese(opens: Opens, api: FakeApi):
    filled(api)
    page = opens(locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    job = running(page, api)
    expect(page.get_by_role("button", name="就要这张")).to_be_visible()
    expect(page.locator("#about")).to_have_text("第 4 步，共 12 步 · 约剩 1.4秒")
    api.finishes(job)
    expect(page.locator("#announcer")).to_have_text("图像已完成。")
    page.get_by_label("提示词", exact=True).fill(f"a bucket of {FORBIDDEN}")
    expect(page.locator("#prompt-error")).to_contain_text("提示词规则拒绝了此内容。")
    expect(page.locator("#prompt-error [lang=en]")).to_contain_text("refused by the rule")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()


def test_what_the_server_says_is_said_in_chinese(opens: Opens, api: FakeApi):
    page = opens(locale="zh-CN")
    api.preflight |= {
        "warnings": [
            "size: used; sluice-shapes draws worse at sizes other than 64x64",
            "prompt: (x:1.2) is not weighted",
        ]
    }
    job = running(page, api)
    notes = page.locator("#notes li")
    expect(notes).to_have_text(
        ["模型并未以此尺寸训练，效果会较差。", "prompt: (x:1.2) is not weighted"]
    )
    expect(page.locator("#notes [lang=en]")).to_have_count(1)  # that which has no text
    page.get_by_text("步数与反向提示词").click()
    page.locator("#steps").fill("500")
    expect(page.locator("#steps-error")).to_have_text("步数须为 1 到 100。")
    expect(page.locator("#steps-error [lang=en]")).to_have_count(0)
    api.fails(job)
    expect(page.locator("#problem")).to_contain_text("服务器绘制失败。")
    waiting = api.adds(USER, "a pink heart")
    for cause, said in (
        ("start", "服务正在唤醒"),
        ("requests", "其他请求优先"),
        ("news", "what no table knows"),
    ):
        api.waits(waiting, position=0, reason="what no table knows", cause=cause)
        begun(page, f"/?lang=zh#{waiting}")
        page.reload()
        expect(page.locator("#about")).to_contain_text(said)
    expect(page.locator("#about [lang=en]")).to_have_text("what no table knows")


def test_every_text_comes_from_the_table(opens: Opens, api: FakeApi):
    """With a table that marks its texts, what is unmarked is data."""
    api.texts = {key: f"⟦{key}⟧" for key in table()}
    filled(api)
    api.receipt = RECEIPT
    page = opens()
    said: set[str] = set()
    for name in ("a yellow star", "a green ring", "a pink heart"):
        page.locator("#tiles button", has_text=name).click()
        said |= set(met(page, "said"))
    job = running(page, api)
    said |= set(met(page, "said"))
    api.previews(job, step=4)
    api.goes_down()
    expect(page.locator("#connection")).to_have_text("⟦lost⟧")
    said |= set(met(page, "said"))
    api.is_down = False
    api.finishes(job)
    expect(page.locator("#picture")).to_have_attribute("src", "v1/files/" + _file_of(api, job))
    page.locator("#prompt").fill(f"a bucket of {FORBIDDEN}")
    expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
    page.evaluate(DROP)
    expect(page.get_by_role("dialog")).to_contain_text("⟦receipt_same⟧")
    said |= set(met(page, "said"))
    prompts = {job["request"]["prompt"] for job in api.jobs.values()}
    receipt = {RECEIPT["request"]["prompt"], "96x96", "sha256:4be1c0a8"}
    names = {"Sluice", "Ctrl", "sluice-shapes", "sluice 0.1.0, torch 2.9.0"}
    unmarked = {text for text in said if "⟦" not in text and any(map(str.isalpha, text))}
    files = {text for text in unmarked if text.startswith("PNG, ")}
    times = {text for text in unmarked if text in {"1.4s"}}
    assert unmarked - prompts - receipt - names - files - times == set()


def _file_of(api: FakeApi, job: str) -> str:
    return api.jobs[job]["outputs"][0]["url"].rpartition("/")[2]
