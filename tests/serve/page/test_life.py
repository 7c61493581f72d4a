"""Reloads, lost connections, restarts, and more than one tab."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.cluster import wait_until
from tests.serve.browser import needs_chromium
from tests.serve.page.conftest import USER, Opens, begun
from tests.serve.page.fake_api import FakeApi
from tests.serve.page.test_drawing import FILE, PROMPT, draw

pytestmark = needs_chromium

SHOWN = re.compile("shown")

NewContext = Callable[..., BrowserContext]


def test_a_reload_in_the_middle_finds_its_job_again(page: Page, api: FakeApi):
    job = draw(page, api)
    api.runs(job, step=4)
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute(
        "aria-valuenow", "33"
    )
    begun(page)
    expect(page.locator("#about")).to_contain_text("Step 4 of 12")
    wait_until(lambda: api.resumed_from[-1] == "2")  # nothing is told again
    api.runs(job, step=7)
    expect(page.locator("#about")).to_contain_text("Step 7 of 12")
    api.finishes(job)
    begun(page)
    expect(page.locator("#picture")).to_have_attribute("src", FILE)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)  # the draft as well


def test_the_address_names_the_job_that_is_shown(page: Page, api: FakeApi):
    first = draw(page, api, "a red circle")
    api.finishes(first)
    draw(page, api, "a blue square")
    page.get_by_role("button", name="a red circle, Done").click()
    expect(page).to_have_url(re.compile(f"#{first}$"))
    expect(page.get_by_role("heading", name="a red circle")).to_be_focused()
    page.reload()
    expect(page.get_by_role("heading", name="a red circle")).to_be_visible()


def test_a_stream_that_is_cut_goes_on_where_it_was(page: Page, api: FakeApi):
    job = draw(page, api)
    api.runs(job, step=3)
    expect(page.locator("#about")).to_contain_text("Step 3 of 12")
    api.cuts_streams()
    api.runs(job, step=8)
    expect(page.locator("#about")).to_contain_text("Step 8 of 12")
    assert api.resumed_from == ["1", "2"]  # what the job's JSON tells is not told again
    api.finishes(job)
    expect(page.locator("#picture")).to_have_attribute("src", FILE)


@pytest.mark.parametrize("down_status", [503, 404])
def test_a_server_that_restarts_is_waited_for(page: Page, api: FakeApi, down_status: int):
    api.down_status = down_status
    job = draw(page, api)
    api.runs(job, step=3)
    expect(page.locator("#about")).to_contain_text("Step 3 of 12")
    api.goes_down()
    connection = page.locator("#connection")
    expect(connection).to_have_text("The server does not answer. Trying again.")
    api.is_down = False
    expect(connection).to_have_text("The server is back.")
    expect(page.locator("#banner")).not_to_have_class(SHOWN)
    api.finishes(job)
    expect(page.locator("#picture")).to_have_attribute("src", FILE)


@pytest.mark.parametrize("down_status", [503, 404])
def test_a_job_that_is_sent_meanwhile_is_drawn_once(page: Page, api: FakeApi, down_status: int):
    api.down_status = down_status
    api.goes_down()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#banner")).to_have_class(SHOWN)
    api.is_down = False
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
    assert len(api.bodies) == 1


def test_who_sends_may_stop_trying(page: Page, api: FakeApi):
    stop, prompt = page.get_by_role("button", name="Stop trying"), page.locator("#prompt")
    expect(stop).to_be_hidden()
    api.goes_down()
    prompt.fill(PROMPT)
    page.get_by_role("button", name="Draw", exact=True).click()
    stop.click()
    expect(stop).to_be_hidden()
    expect(page.locator("#connection")).to_have_text("Stopped. Nothing more is sent.")
    expect(page.locator("#draw")).to_be_focused()
    expect(page.locator("#draw")).not_to_have_attribute("aria-disabled", "true")
    api.is_down = False
    draw(page, api, "a green star")
    assert [body["prompt"] for body in api.bodies] == ["a green star"]


def test_a_full_queue_is_waited_for_unless_somebody_stops(page: Page, api: FakeApi):
    api.queue_full = True
    stop, connection = page.get_by_role("button", name="Stop trying"), page.locator("#connection")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(connection).to_have_text("The server has too much to do. Trying again in 12s.")
    expect(page.locator("[aria-invalid]")).to_have_count(0)
    stop.click()
    expect(page.locator("#draw")).not_to_have_attribute("aria-disabled", "true")
    assert api.bodies == []
    api.full_for_ms = 1
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(stop).to_be_visible()
    api.queue_full = False
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
    expect(stop).to_be_hidden()
    assert len(api.bodies) == 1


def test_a_server_that_is_away_at_first(opens: Opens, api: FakeApi):
    api.adds(USER, PROMPT, status="succeeded")
    api.fails_lists = 2
    page = opens()
    expect(page.locator("#picture")).to_have_attribute("src", FILE)
    expect(page.locator("#banner")).not_to_have_class(SHOWN)


def test_a_job_that_vanished(page: Page, api: FakeApi):
    job = draw(page, api)
    api.runs(job, step=3)
    expect(page.locator("#about")).to_contain_text("Step 3 of 12")
    api.forgets(job)
    expect(page.locator("#state")).to_have_text("No longer on the server")
    expect(page.locator("#announcer")).to_have_text("No longer on the server")
    page.get_by_role("button", name="Draw again").click()
    expect(page.locator("#state")).to_have_text("Waiting")
    assert api.newest != job


def test_two_tabs_show_the_same(page: Page, api: FakeApi):
    other = begun(page.context.new_page())
    job = draw(page, api)
    expect(other.get_by_role("button", name=f"{PROMPT}, Waiting")).to_be_visible()
    api.runs(job, step=5)
    expect(other.get_by_role("button", name=f"{PROMPT}, Drawing")).to_be_visible()
    expect(other.get_by_role("heading", name="Nothing drawn yet")).to_be_visible()
    second = draw(other, api, "a green star")
    api.finishes(job)
    api.finishes(second)
    for each in (page, other):
        expect(each.get_by_role("button", name=f"{PROMPT}, Done")).to_be_visible()
        expect(each.get_by_role("button", name="a green star, Done")).to_be_visible()
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()


def test_what_is_deleted_in_a_tab_goes_from_the_other(page: Page, api: FakeApi):
    api.finishes(draw(page, api))
    other = begun(page.context.new_page())
    expect(other.locator("#picture")).to_have_attribute("src", FILE)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete for good").click()
    expect(other.locator("#state")).to_have_text("No longer on the server")
    expect(other.locator("#tiles .tile")).to_have_count(0)


def test_of_many_jobs_two_are_followed_and_the_others_asked_for(opens: Opens, api: FakeApi):
    jobs = [api.adds(USER, f"a red circle number {number}") for number in range(5)]
    page = opens()
    expect(page.locator('#tiles .tile[data-state="queued"]')).to_have_count(5)
    for job in jobs:
        api.runs(job, step=6)
    expect(page.locator('#tiles .tile[data-state="running"]')).to_have_count(5)
    assert api.num_streams == 2
    for job in jobs:
        api.finishes(job)
    expect(page.locator('#tiles .tile[data-state="succeeded"]')).to_have_count(5)
    expect(page.locator("#picture")).to_have_attribute("src", FILE)


def test_a_browser_that_keeps_nothing(new_context: NewContext, api: FakeApi):
    context = new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage',"
        " {get() { throw new DOMException('blocked', 'SecurityError'); }});"
    )
    page = begun(context.new_page())
    expect(page.get_by_text("This browser blocks storage")).to_be_visible()
    api.finishes(draw(page, api))
    expect(page.locator("#picture")).to_have_attribute("src", FILE)
    assert re.fullmatch("page-[0-9a-f]{32}", api.bodies[0]["user"])


def test_an_id_is_made_once(new_context: NewContext, api: FakeApi):
    context = new_context()
    draw(begun(context.new_page()), api)
    draw(begun(context.new_page()), api)
    draw(begun(new_context().new_page()), api)
    here, again, elsewhere = (body["user"] for body in api.bodies)
    assert here == again
    assert here != elsewhere
