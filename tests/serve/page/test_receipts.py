"""Receipts: of a file that is dropped or chosen, and of a picture that was drawn here."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.serve.browser import needs_chromium
from tests.serve.page.fake_api import FakeApi
from tests.serve.page.test_drawing import draw

pytestmark = needs_chromium

HOSTILE = "<img src=x onerror=alert(1)>"

RECEIPT: dict[str, Any] = {
    "request": {
        "prompt": "a yellow star on a navy background",
        "size": "96x96",
        "seed": 18446744073709551615,
        "num_inference_steps": 20,
    },
    "model": "sluice-shapes",
    "weights": "sha256:4be1c0a8",
    "versions": {"sluice": "0.1.0", "torch": "2.9.0"},
    "steps": 20,
    "reproducible": True,
    "differences": [],
}

DROP = """() => {
  const data = new DataTransfer();
  data.items.add(new File(["bytes"], "picture.png", { type: "image/png" }));
  const at = { clientX: innerWidth - 40, clientY: innerHeight - 40 };  // in the half for receipts
  const tell = (name) => document.querySelector("#prompt").dispatchEvent(
    new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true, ...at }));
  tell("dragenter");
  tell("dragover");
  tell("drop");
}"""


def test_a_file_that_is_dropped(page: Page, api: FakeApi):
    api.receipt = RECEIPT
    page.evaluate(DROP)
    dialog = page.get_by_role("dialog", name="Receipt")
    expect(dialog).to_contain_text("This server would draw the same file again.")
    expect(dialog).to_contain_text("Seed18446744073709551615")
    expect(dialog).to_contain_text("Versionssluice 0.1.0, torch 2.9.0")
    expect(page.locator("#drop")).to_be_hidden()
    dialog.get_by_role("button", name="Use these settings").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(RECEIPT["request"]["prompt"])
    expect(page.get_by_label("Steps", exact=True)).to_have_value("20")
    expect(page.get_by_label("96 × 96")).to_be_checked()


def test_what_differs_is_said(page: Page, api: FakeApi):
    differences = [
        {"what": "weights", "part": "transformer", "file": "4be1c0a8", "here": "9d07aa31"},
        {"what": "model", "part": None, "file": "flux.1-dev", "here": None},
        "something else",
    ]
    api.receipt = RECEIPT | {"reproducible": False, "differences": differences}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Read a receipt").click()
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": b"bytes"}])
    dialog = page.get_by_role("dialog", name="Receipt")
    expect(dialog).to_contain_text("This server would not draw the same file:")
    expect(dialog.get_by_role("listitem")).to_have_text(
        [
            "transformer, weights: 4be1c0a8 in the file, 9d07aa31 here",
            "model: flux.1-dev in the file, unknown here",
            "something else",
        ]
    )
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Read a receipt")).to_be_focused()


def test_what_a_file_says_is_text(page: Page, api: FakeApi):
    api.receipt = {
        "request": {
            "prompt": HOSTILE,
            "seed": {"a": 1},
            "size": ["x"],
            "num_inference_steps": None,
        },
        "model": HOSTILE,
        "weights": {"transformer": HOSTILE},
        "versions": [HOSTILE, 3],
        "steps": {"a": [None]},
        "reproducible": "yes",
        "differences": {HOSTILE: HOSTILE},
    }
    page.evaluate(DROP)
    dialog = page.get_by_role("dialog", name="Receipt")
    expect(dialog).to_contain_text(f"Prompt{HOSTILE}")
    expect(dialog).to_contain_text("This server would not draw the same file:")
    expect(dialog.locator("img")).to_have_count(0)


def test_a_file_without_one(page: Page, api: FakeApi):
    page.evaluate(DROP)
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(
        "No receipt can be read from this file."
    )


def test_of_a_picture_that_was_drawn_here(page: Page, api: FakeApi):
    api.receipt = RECEIPT
    api.finishes(draw(page, api))
    page.get_by_role("button", name="Receipt", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("sha256:4be1c0a8")
