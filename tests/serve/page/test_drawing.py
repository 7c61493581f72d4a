"""From a prompt to a picture, in headless Chromium."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.serve.browser import needs_chromium
from tests.serve.page.conftest import USER, Opens, begun
from tests.serve.page.fake_api import TRACE_ID, FakeApi

pytestmark = needs_chromium

PROMPT = "a red circle left of a blue square"
FILE = re.compile(r"v1/files/[0-9a-f]{32}$")


def draw(page: Page, api: FakeApi, prompt: str = PROMPT) -> str:
    """The id of the job that comes of it."""
    known = set(api.jobs)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("heading", name=prompt)).to_be_visible()
    page.wait_for_function("known => !known.includes(location.hash.slice(1))", arg=sorted(known))
    return page.evaluate("location.hash.slice(1)")


def test_from_typing_to_the_picture(page: Page, api: FakeApi):
    picture, progress = page.locator("#picture"), page.get_by_role("progressbar", name="Progress")
    said = page.locator("#announcer")
    job = draw(page, api)
    assert api.bodies == [
        {"prompt": PROMPT, "n": 1, "size": "64x64", "quality": "medium", "user": USER}
    ]
    expect(said).to_have_text("Sent. Waiting for its turn.")
    api.waits(job, position=2)
    expect(page.get_by_text("2 jobs before this one · about 4.2s to go")).to_be_visible()
    api.runs(job, step=3)
    expect(said).to_have_text("Drawing has begun.")
    expect(progress).to_have_attribute("aria-valuenow", "25")
    expect(progress).to_have_attribute("aria-valuetext", "Step 3 of 12")
    expect(page).to_have_title("25% · Sluice")
    api.previews(job, step=3)
    expect(picture).to_have_attribute("src", re.compile(r"^data:image/png;base64,"))
    api.runs(job, step=6)
    expect(said).to_have_text("Half way.")
    api.finishes(job)
    expect(picture).to_have_attribute("src", FILE)
    expect(picture).to_have_attribute("alt", PROMPT)
    assert picture.evaluate("async picture => { await picture.decode(); return picture.width; }")
    expect(progress).to_be_hidden()
    expect(said).to_have_text("The picture is done.")
    expect(page).to_have_title("Sluice")
    facts = page.locator("#facts")
    expect(facts).to_contain_text("Seed2654435769")
    expect(facts).to_contain_text("Steps12")
    trace = page.get_by_role("link", name="Trace", exact=True)
    expect(trace).to_have_attribute("href", f"v1/traces/{TRACE_ID}")
    expect(page.get_by_role("button", name=f"{PROMPT}, Done")).to_be_visible()


def test_what_it_costs_is_said_while_somebody_writes(page: Page, api: FakeApi):
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("1.4s")
    expect(estimate).to_contain_text("0.6s device · 0.041 MP·steps")
    api.preflight |= {"eta_ms": 9100, "queue_ms": 6000, "warnings": ["steps: 3 are skipped"]}
    page.get_by_label("Draft").check()
    expect(estimate).to_contain_text("9.1s, of which 6s behind others")
    expect(page.locator("#notes")).to_have_text("steps: 3 are skipped")
    api.preflight |= {"cold_start_ms": 4000}
    page.get_by_label("Fine").check()
    expect(estimate).to_contain_text("9.1s, of which 4s to wake the server")
    api.preflight |= {"eta_ms": None, "cold_start_ms": 0}
    api.preflight["cost"] = {"device_seconds": None, "megapixel_steps": 1.5}
    page.get_by_label("Standard").check()
    expect(page.locator("#estimate-time")).to_have_text("not known yet")
    expect(page.locator("#estimate-cost")).to_have_text("1.5 MP·steps")


def test_every_setting_is_sent(page: Page, api: FakeApi):
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Other", exact=True).check()
    expect(page.get_by_label("Width", exact=True)).to_have_value("64")
    page.get_by_label("Width", exact=True).fill("112")
    page.get_by_label("Images", exact=True).fill("2")
    page.get_by_label("Seed", exact=True).fill("9007199254740993")
    page.get_by_text("Steps and negative prompt").click()
    page.get_by_label("Steps", exact=True).fill("20")
    page.get_by_label("Negative prompt", exact=True).fill("green")
    page.get_by_label("Strength of the negative prompt").fill("2.5")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
    (body,) = api.bodies
    assert body == {
        "prompt": PROMPT,
        "n": 2,
        "size": "112x64",
        "num_inference_steps": 20,
        "seed": 9007199254740993,  # more than a JavaScript number holds
        "negative_prompt": "green",
        "true_cfg_scale": 2.5,
        "user": USER,
    }
    expect(page.locator("#facts")).to_contain_text("9007199254740993")


def test_an_example_is_a_prompt(page: Page):
    page.get_by_role("button", name="a yellow star on a navy background").click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value("a yellow star on a navy background")
    expect(prompt).to_be_focused()
    expect(page.locator("#estimate")).to_contain_text("1.4s")


def test_cancel(page: Page, api: FakeApi):
    job = draw(page, api)
    api.runs(job, step=2)
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    cancel.click()
    expect(cancel).to_be_disabled()
    expect(page.locator("#about")).to_have_text(re.compile("^Stopping"))
    assert api.jobs[job]["pending_action"] == "cancel"
    api.cancels(job)
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(cancel).to_have_count(0)
    expect(page.get_by_role("heading", name=PROMPT)).to_be_focused()
    page.get_by_role("button", name="Draw again").click()
    expect(page.locator("#state")).to_have_text("Waiting")
    assert api.bodies[1] == {**api.jobs[job]["request"], "user": USER}


def test_good_enough(page: Page, api: FakeApi):
    job = draw(page, api)
    keep = page.get_by_role("button", name="Good enough")
    expect(keep).to_be_disabled()  # there is nothing yet to be kept
    api.runs(job, step=4)
    keep.click()
    expect(page.locator("#about")).to_have_text(re.compile("^Finishing from here"))
    assert api.jobs[job]["pending_action"] == "keep"
    api.finishes(job, steps=5)
    expect(page.locator("#facts")).to_contain_text("Steps5")
    expect(page.locator("#picture")).to_have_attribute("src", FILE)


def test_each_image_of_a_job_is_shown(page: Page, api: FakeApi):
    page.get_by_label("Images", exact=True).fill("3")
    job = draw(page, api)
    second = page.get_by_role("button", name="Image 2")
    second.click()
    expect(second).to_have_attribute("aria-current", "true")
    api.runs(job, step=5)
    api.previews(job, step=5, image=1)
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("^data:"))
    api.draws(job, image=0)
    api.draws(job, image=1)  # before the others
    expect(page.locator("#picture")).to_have_attribute("src", FILE)
    expect(page.locator("#facts")).to_contain_text("Seed2654435770")
    api.finishes(job)
    page.get_by_role("button", name="Use settings").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("2654435770")
    expect(page.get_by_label("Images", exact=True)).to_have_value("1")


def test_another_seed_and_the_settings_of_before(page: Page, api: FakeApi):
    job = draw(page, api)
    api.finishes(job)
    page.get_by_role("button", name="Vary the seed").click()
    expect(page.locator("#state")).to_have_text("Waiting")
    varied = api.bodies[1]
    assert varied["seed"] != 2_654_435_769
    assert {**varied, "seed": 2_654_435_769} == {**api.jobs[job]["request"], "user": USER}
    page.get_by_label("Prompt", exact=True).fill("something else")
    page.get_by_role("button", name=f"{PROMPT}, Done").click()
    page.get_by_role("button", name="Use settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    expect(page.get_by_label("Seed", exact=True)).to_have_value("2654435769")
    expect(page.get_by_label("Keep this seed")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Standard")).to_be_checked()
    expect(page.locator("#steps")).to_have_value("")


def test_the_lock_keeps_a_seed(page: Page, api: FakeApi):
    lock, seed = page.get_by_label("Keep this seed"), page.get_by_label("Seed", exact=True)
    api.finishes(draw(page, api))
    expect(page.locator("#facts")).to_contain_text("2654435769")
    lock.click()
    expect(seed).to_have_value("2654435769")
    draw(page, api)
    assert api.bodies[1]["seed"] == 2_654_435_769
    lock.click()
    expect(seed).to_have_value("")
    draw(page, api)
    assert "seed" not in api.bodies[2]


def test_a_job_that_failed_says_why(page: Page, api: FakeApi):
    job = draw(page, api)
    api.fails(job)
    expect(page.locator("#state")).to_have_text("Failed")
    expect(page.locator("#problem")).to_have_text(
        "The server failed to draw it. the denoiser lost its replica three times"
    )
    expect(page.get_by_role("button", name="Draw again")).to_be_visible()


def test_deleting_asks_first(page: Page, api: FakeApi):
    job = draw(page, api)
    api.finishes(job)
    page.get_by_role("button", name="Delete", exact=True).click()
    sure = page.get_by_role("button", name="Delete for good")
    sure.evaluate("button => button.blur()")
    expect(sure).to_have_count(0)
    assert job in api.jobs
    page.get_by_role("button", name="Delete", exact=True).click()
    sure.click()
    expect(page.get_by_role("heading", name="Nothing drawn yet")).to_be_focused()
    expect(page.get_by_text("What you draw is kept here.")).to_be_visible()
    assert job not in api.jobs


def test_the_gallery_has_older_ones_on_request(opens: Opens, api: FakeApi):
    for number in range(30):
        api.adds(USER, f"a red circle number {number}", status="succeeded")
    page = opens()
    tiles = page.locator("#tiles .tile")
    expect(tiles).to_have_count(24)
    expect(tiles.first).to_contain_text("number 29")
    page.get_by_role("button", name="Show older").click()
    expect(tiles).to_have_count(30)
    expect(page.get_by_role("button", name="Show older")).to_be_hidden()
    expect(tiles.last).to_contain_text("number 0")


def test_a_file_that_is_gone(opens: Opens, api: FakeApi):
    api.adds(USER, PROMPT, status="succeeded")
    api.files.clear()
    page = opens()
    expect(page.get_by_text("The file of this picture is no longer kept.")).to_be_visible()
    expect(page.locator("#picture")).to_be_hidden()
    expect(page.locator("#tiles .tile")).to_contain_text("File gone")
    expect(page.locator("#facts")).to_contain_text("Deleted earlyit was to be kept until")
    for name in ("Download", "Receipt"):
        expect(page.get_by_role("link", name=name)).to_be_hidden()
        expect(page.get_by_role("button", name=name, exact=True)).to_be_hidden()
    expect(page.get_by_role("button", name="Draw again")).to_be_visible()
    api.adds(USER, "a blue square", status="succeeded", n=2)
    api.files.clear()
    begun(page)
    expect(page.locator("#strip button")).to_have_count(2)
    expect(page.locator("#strip img:visible")).to_have_count(0)
    expect(page.locator("#strip .lost .icon:visible")).to_have_count(2)


def test_until_when_a_file_is_or_was_kept(opens: Opens, api: FakeApi):
    api.adds(USER, PROMPT, status="succeeded")
    page = opens()
    facts = page.locator("#facts")
    expect(facts).to_contain_text("Kept until")
    api.files.clear()
    api.expires_at = 1.0
    api.adds(USER, "a blue square", status="succeeded")
    api.files.clear()
    begun(page)
    expect(page.get_by_role("heading", name="a blue square")).to_be_visible()
    expect(facts).to_contain_text("Was kept until")


def test_all_images_together_have_one_progress(page: Page, api: FakeApi):
    page.get_by_label("Images", exact=True).fill("4")
    job = draw(page, api)
    api.runs(job, step=3)
    for image in (1, 2, 3):
        api.runs(job, step=5, image=image)
    about, progress = page.locator("#about"), page.get_by_role("progressbar", name="Progress")
    expect(about).to_contain_text("37% of 4 images · Image 1: Step 3 of 12")
    expect(progress).to_have_attribute("aria-valuenow", "37")
    expect(progress).to_have_attribute("aria-valuetext", "37% of 4 images · Image 1: Step 3 of 12")
    page.get_by_role("button", name="Image 2").click()
    expect(about).to_contain_text("37% of 4 images · Image 2: Step 5 of 12")
    api.draws(job, image=0)
    page.get_by_role("button", name="Image 1").click()
    expect(about).to_contain_text("37% of 4 images · Image 1: Drawn")
    assert page.title().startswith("37%")


def test_all_that_decides_on_a_picture_comes_back(opens: Opens, api: FakeApi):
    first = api.adds(
        USER,
        PROMPT,
        status="succeeded",
        n=3,
        size="112x64",
        seed=21,
        guidance_scale=3.0,
        num_inference_steps=20,
        step_cuts=[[4, 12]],
        negative_prompt="green",
        true_cfg_scale=2.5,
        output_format="webp",
        output_compression=40,
    )
    page = opens()
    page.get_by_role("button", name="Use settings").click()
    also = page.get_by_role("group", name="Also")
    expect(also.get_by_role("listitem")).to_have_text(
        ["guidance 3.0", "schedule cut at 4/12", "WEBP file", "file quality 40"]
    )
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#state")).to_have_text("Waiting")
    stored = api.jobs[first]["request"]
    named = {name: value for name, value in api.bodies[0].items() if name != "user"}
    assert named == {**{name: stored[name] for name in named}, "n": 1}
    assert {"guidance_scale", "step_cuts", "output_format", "output_compression"} <= set(named)
    also.get_by_role("button", name="Leave out: guidance 3.0").click()
    expect(also.get_by_role("listitem")).to_have_count(3)
    expect(also.get_by_role("button").first).to_be_focused()
    begun(page)  # a draft as well
    expect(also.get_by_role("listitem")).to_have_count(3)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#state")).to_have_text("Waiting")
    page.wait_for_function("() => document.querySelectorAll('#tiles .tile').length === 3")
    assert "guidance_scale" not in api.bodies[1]
    assert api.bodies[1]["step_cuts"] == [[4, 12]]


def test_other_settings_replace_what_the_form_has_no_field_for(opens: Opens, api: FakeApi):
    api.adds(USER, PROMPT, status="succeeded", negative_prompt="", true_cfg_scale=3.0)
    api.adds(USER, "a blue square", status="succeeded", guidance_scale=2.0)
    page = opens()
    chips = page.locator("#also li")
    page.get_by_role("button", name="Use settings").click()
    expect(chips).to_have_text(["guidance 2.0"])
    page.get_by_role("button", name=f"{PROMPT}, Done").click()
    page.get_by_role("button", name="Use settings").click()
    expect(chips).to_have_text(["empty negative prompt", "its strength 3"])
    page.get_by_role("button", name="Leave out: its strength 3").click()
    expect(chips).to_have_count(0)
    expect(page.get_by_role("group", name="Also")).to_be_hidden()


def test_steps_of_one_s_own_are_no_quality_s(page: Page, api: FakeApi):
    page.get_by_label("Fine").check()
    page.get_by_text("Steps and negative prompt").click()
    steps = page.get_by_label("Steps", exact=True)
    steps.fill("20")
    expect(page.locator("[name=quality]:checked")).to_have_count(0)
    expect(page.get_by_role("radiogroup", name="Quality")).to_contain_text("custom, 20 steps")
    steps.fill("")
    expect(page.get_by_label("Fine")).to_be_checked()
    steps.fill("20")
    page.get_by_label("Draft").check()
    expect(steps).to_have_value("")
    draw(page, api)
    assert api.bodies[0]["quality"] == "low"
