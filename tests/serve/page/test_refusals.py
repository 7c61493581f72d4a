"""What the page says when the answer is no, and which field it marks."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.serve.browser import needs_chromium
from tests.serve.page.fake_api import FakeApi
from tests.serve.page.test_drawing import PROMPT, draw

pytestmark = needs_chromium


def test_the_rules_for_prompts(page: Page, api: FakeApi):
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a bucket of blood")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_accessible_description(
        "The rules for prompts refuse this. prompt: refused by the rule 'graphic_violence'"
    )
    assert api.bodies == []
    prompt.fill(PROMPT)
    expect(prompt).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator("#prompt-error")).to_be_empty()
    draw(page, api)


def test_somebody_who_writes_is_warned_and_keeps_the_focus(page: Page):
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a bucket of blood")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()


def test_a_field_that_is_folded_away(page: Page, api: FakeApi):
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_text("Steps and negative prompt").click()
    steps = page.get_by_label("Steps", exact=True)
    steps.fill("500")
    page.get_by_text("Steps and negative prompt").click()
    expect(steps).to_be_visible()  # as it is found to be wrong
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(steps).to_be_focused()
    expect(steps).to_have_attribute("aria-invalid", "true")
    assert api.bodies == []


def test_what_is_missing_is_said_without_the_server(page: Page, api: FakeApi):
    page.get_by_role("button", name="Draw", exact=True).click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_be_focused()
    expect(prompt).to_have_accessible_description("Say what to draw.")
    prompt.fill(PROMPT)
    seed = page.get_by_label("Seed", exact=True)
    seed.fill("-7")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(seed).to_be_focused()
    expect(seed).to_have_accessible_description("A seed is a whole number of 0 or more.")
    seed.fill("")
    page.get_by_label("Other", exact=True).check()
    page.get_by_label("Height", exact=True).fill("")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("radiogroup", name="Size")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Height", exact=True)).to_be_focused()
    assert api.bodies == []


def test_a_limit_is_told_in_the_page_s_words(page: Page):
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_text("Steps and negative prompt").click()
    page.get_by_label("Steps", exact=True).fill("500")
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_accessible_description(re.compile(r"Steps: 1 to 100\.$"))
    expect(page.locator("#steps-error [lang=en]")).to_have_count(0)
