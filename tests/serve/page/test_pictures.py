"""Pictures as input: how they come, what is marked on them, and what becomes of them."""

from __future__ import annotations

import base64
import io
import re
from typing import Any, cast

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from serve.api.pictures.heads import read_head
from tests.serve.browser import needs_chromium
from tests.serve.page.conftest import USER, Opens
from tests.serve.page.fake_api import FakeApi, picture
from tests.serve.page.test_for_everybody import met, overflow, tab_to
from tests.serve.page.test_receipts import RECEIPT

pytestmark = needs_chromium

SIZE = (128, 96)
PICTURE = picture({"size": "128x96", "prompt": "a red circle on a yellow background"})
FILE: FilePayload = {"name": "harbour.png", "mimeType": "image/png", "buffer": PICTURE}
NO_PICTURE: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}

BROUGHT = """([how, base64, zone]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  data.items.add(new File([bytes], "harbour.png", { type: "image/png" }));
  const about = { bubbles: true, cancelable: true };
  const tell = (event) => document.querySelector("#prompt").dispatchEvent(event);
  if (how === "paste") return tell(new ClipboardEvent("paste", { clipboardData: data, ...about }));
  tell(new DragEvent("dragenter", { dataTransfer: data, ...about }));
  const { left, top } = document.querySelector(`[data-drop="${zone}"]`).getBoundingClientRect();
  const at = { clientX: left + 9, clientY: top + 9 };
  for (const name of ["dragover", "drop"]) {
    tell(new DragEvent(name, { dataTransfer: data, ...at, ...about }));
  }
}"""


def choose(page: Page) -> None:
    """A picture of one's own, by the button."""
    upload(page, FILE)
    expect(page.locator("#chosen")).to_be_visible()


def upload(page: Page, file: FilePayload) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a picture").click()
    chooser.value.set_files(file)


def bring(page: Page, how: str, zone: str = "use") -> None:
    page.evaluate(BROUGHT, [how, base64.b64encode(PICTURE).decode(), zone])


def submitted(page: Page, api: FakeApi) -> dict[str, Any]:
    """The body that is sent for what the form says."""
    count = len(api.bodies)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#announcer")).to_have_text("Sent. Waiting for its turn.")
    assert len(api.bodies) == count + 1
    return api.bodies[-1]


def image_of(url: object) -> Image.Image:
    head, _, data = cast("str", url).partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("how", ["choose", "drop", "paste"])
def test_a_picture_comes_and_goes(page: Page, api: FakeApi, how: str):
    if how == "choose":
        choose(page)
    else:
        bring(page, how)
    expect(page.locator("#picture-name")).to_have_text("harbour.png")
    expect(page.locator("#picture-about")).to_have_text("128 × 96")
    expect(page.locator("#drop")).to_be_hidden()
    page.get_by_label("Instruction", exact=True).fill("make the circle blue")
    body = submitted(page, api)
    assert base64.b64decode(body.pop("image").split(",")[1]) == PICTURE  # byte for byte
    assert body == {
        "prompt": "make the circle blue",
        "kind": "edit",
        "n": 1,
        "size": "auto",
        "quality": "medium",
        "user": USER,
    }
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.get_by_role("button", name="Add a picture")).to_be_focused()
    expect(page.get_by_label("64 × 64")).to_be_checked()
    page.get_by_label("Prompt", exact=True).fill("a blue circle")
    assert submitted(page, api).keys() == {"prompt", "n", "size", "quality", "user"}


def test_what_is_dropped_is_read_where_that_is_aimed_at(page: Page, api: FakeApi):
    api.receipt = RECEIPT
    bring(page, "drop", "read")
    expect(page.get_by_role("dialog", name="Receipt")).to_contain_text("draw the same file again")
    expect(page.locator("#chosen")).to_be_hidden()


def test_what_is_no_picture(page: Page):
    upload(page, NO_PICTURE)
    field = page.get_by_role("group", name="Picture to draw from")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("Choose a PNG, JPEG or WebP"))
    expect(page.locator("#chosen")).to_be_hidden()


def test_a_preflight_sends_a_blank_picture_of_the_same_size(page: Page, api: FakeApi):
    choose(page)
    page.locator("#prompt").fill("make the circle blue")
    expect(page.locator("#estimate")).to_contain_text("1.4s")
    asked = api.asked[-1]
    assert (asked["kind"], asked["size"], "strength" in asked) == ("edit", "auto", False)
    data = base64.b64decode(asked["image"].split(",")[1])
    head = read_head(data)  # as the server does
    assert (head.width, head.height) == SIZE
    blank = Image.open(io.BytesIO(data))
    blank.load()  # checks every checksum
    assert blank.convert("L").getextrema() == (255, 255)
    assert len(data) < 200


def test_strength_is_there_where_the_task_has_one(page: Page, api: FakeApi):
    slider = page.get_by_label("How much changes")
    choose(page)
    expect(slider).to_be_hidden()
    page.get_by_label("Redraw", exact=True).check()
    expect(slider).to_have_value("60")
    slider.fill("45")
    expect(page.locator("#picture-strength-said")).to_have_text("45%")
    page.get_by_label("Prompt", exact=True).fill("a blue circle")
    assert submitted(page, api)["strength"] == 0.45
    expect(page.locator("#facts")).to_contain_text("Changed by45%")


def test_a_mask_is_painted_erased_and_undone(page: Page, api: FakeApi):
    choose(page)
    page.get_by_role("button", name="Mark a part").click()
    easel = page.get_by_role("dialog", name="What to draw anew")
    status, undo = easel.locator("#mask-status"), easel.get_by_role("button", name="Undo")
    expect(undo).to_be_disabled()
    easel.get_by_role("button", name="Whole picture").click()
    expect(status).to_contain_text("100% of the picture")
    easel.get_by_label("Erase").check()
    stroke(page, 0.25, 0.5)
    expect(status).not_to_contain_text("100%")
    undo.click()
    expect(status).to_contain_text("100% of the picture")
    easel.get_by_role("button", name="Clear").click()
    expect(status).to_contain_text("Nothing is marked")
    easel.get_by_label("Paint").check()
    stroke(page, 0.25, 0.5)
    easel.get_by_role("button", name="Done").click()
    expect(easel).to_be_hidden()
    page.locator("#prompt").fill("a star")
    body = submitted(page, api)
    assert (body["prompt"], body["strength"]) == ("[EDIT] a star", 1)
    mask = image_of(body["mask_image"]).convert("L")
    assert mask.size == SIZE
    assert (mask.getpixel((32, 48)), mask.getpixel((96, 48))) == (255, 0)
    assert mask.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) in range(3, 20)


def stroke(page: Page, x: float, y: float) -> None:
    """A dab at these shares of the picture."""
    box = page.locator("#mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + x * box["width"] + 3, box["y"] + y * box["height"])
    page.mouse.up()


def test_a_mask_with_nothing_but_the_keyboard(page: Page, api: FakeApi):
    choose(page)
    expect(page.locator("#prompt")).to_be_focused()
    tab_to(page, "#mark-part")
    page.keyboard.press("Enter")
    tab_to(page, "#mask")
    expect(page.locator("#mask-box")).to_be_visible()
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "Shift+ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#mask-box-said")).to_have_text("Rectangle at 28, 16, 60 × 52")
    page.keyboard.press("Enter")
    expect(page.locator("#mask-status")).to_contain_text("25% of the picture")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Mark a part")).to_be_focused()
    page.locator("#prompt").fill("a star")
    mask = image_of(submitted(page, api)["mask_image"]).convert("L")
    assert mask.point([0] * 128 + [255] * 128).getbbox() == (28, 16, 88, 68)


def test_edges_are_dragged_and_written(page: Page, api: FakeApi):
    choose(page)
    page.get_by_role("button", name="Extend").click()
    handle = page.locator('.handle[data-side="right"]').bounding_box()
    sheet = page.locator("#sheet").bounding_box()
    assert handle is not None
    assert sheet is not None
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30 * sheet["width"] / SIZE[0], y, steps=3)  # 30 pixels of the picture
    page.mouse.up()
    expect(page.get_by_label("Right", exact=True)).to_have_value("32")
    top = page.get_by_label("Top", exact=True)
    top.fill("50")
    top.blur()
    expect(top).to_have_value("48")
    expect(page.locator("#frame-size")).to_have_text("Becomes 160 × 144 pixels.")
    top.fill("4000")
    top.blur()
    expect(top).to_have_value(str(512 - 96))  # the longest side there may be
    top.fill("16")
    top.blur()
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#picture-about")).to_have_text("128 × 96, extended to 160 × 112")
    page.locator("#prompt").fill("the sea")
    body = submitted(page, api)
    assert body["outpaint"] == {"left": 0, "top": 16, "right": 32, "bottom": 0}
    assert "mask_image" not in body


def test_a_result_is_the_next_input(opens: Opens, api: FakeApi):
    done = api.adds(USER, "a yellow star", status="succeeded")
    api.adds(USER, "a pink heart", status="failed")
    page = opens()
    tiles = page.get_by_role("button", name="Use as input: ")
    expect(tiles).to_have_count(1)  # what failed has no picture
    tiles.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#picture-name")).to_have_text("a yellow star")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("make the star red")
    expect(page.locator("#estimate")).to_contain_text("1.4s")
    body = submitted(page, api)
    assert body["image"] == api.jobs[done]["outputs"][0]["url"].split("/")[-1]
    assert api.asked[-1]["image"] == body["image"]
    job = api.newest
    api.runs(job)
    api.finishes(job)
    page.get_by_role("button", name="Use as input", exact=True).click()
    expect(page.locator("#picture-name")).to_have_text("make the star red")


def test_before_and_after(page: Page, api: FakeApi):
    choose(page)
    page.locator("#prompt").fill("make the circle blue")
    submitted(page, api)
    job = api.newest
    api.runs(job)
    expect(page.get_by_role("button", name="Compare")).to_have_count(0)
    api.finishes(job)
    page.get_by_role("button", name="Compare").click()
    slider = page.get_by_role("slider", name="Before and after")
    expect(slider).to_be_focused()
    before = page.locator("#before")
    expect(before).to_have_attribute("src", f"v1/files/{api.jobs[job]['request']['image'][0]}")
    older = page.locator("#comparing .older")
    expect(older).to_be_visible()
    expect(older).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    page.keyboard.press("Home")
    expect(older).to_have_css("clip-path", "inset(0px 100% 0px 0px)")
    page.keyboard.press("Escape")
    expect(slider).to_be_hidden()
    expect(page.get_by_role("button", name="Compare")).to_be_focused()
    page.get_by_role("button", name="Remove the picture").click()
    page.get_by_role("button", name="Use settings").click()
    page.locator("#prompt").fill("make the circle green")
    expect(page.locator("#chosen")).to_be_visible()
    assert submitted(page, api)["image"] == api.jobs[job]["request"]["image"][0]


def test_where_the_model_takes_no_pictures(opens: Opens, api: FakeApi):
    api.tasks = ["text-to-image"]
    api.adds(USER, "a yellow star", status="succeeded")
    page = opens()
    expect(page.locator("#picture")).to_be_visible()
    for name in ("Add a picture", "Use as input"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    api.receipt = RECEIPT
    bring(page, "drop", "use")
    expect(page.get_by_role("dialog", name="Receipt")).to_be_visible()


def test_what_the_model_cannot_do_with_one_is_said(opens: Opens, api: FakeApi):
    api.tasks = ["text-to-image", "image-to-image"]
    page = opens()
    choose(page)
    for name in ("Mark a part", "Extend"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    expect(page.locator("#picture-hint")).to_contain_text("from the whole picture only")
    expect(page.locator("#ways")).to_be_hidden()
    expect(page.get_by_label("How much changes")).to_be_visible()
    api.tasks = ["fill"]
    page = opens()
    choose(page)
    page.locator("#prompt").fill("a star")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#image-error")).to_contain_text("mark a part, or extend")
    assert api.bodies == []


def test_the_server_marks_the_picture(page: Page, api: FakeApi):
    api.refuses_pictures = "image: is 16385x4 pixels; at most 16384 a side"
    choose(page)
    page.locator("#prompt").fill("a star")
    field = page.get_by_role("group", name="Picture to draw from")
    expect(field).to_have_accessible_description(re.compile("at most 16384 a side"))
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Show the picture large")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_everything_has_a_name_and_fits(opens: Opens, scheme: str, width: int):
    page = opens(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800}
    )
    found: list[object] = []

    def check(state: str) -> None:
        found.extend((state, each) for each in (met(page, "unnamed"), met(page, "poorContrast")))
        found.append((state, overflow(page)))

    check("empty")
    choose(page)
    page.get_by_label("Redraw", exact=True).check()
    check("picture")
    page.get_by_role("button", name="Mark a part").click()
    page.get_by_role("button", name="Whole picture").click()
    check("mask")
    page.locator('input[name="tool"][value="frame"]').check()
    page.get_by_label("Left", exact=True).fill("32")
    check("frame")
    assert page.locator("#easel").evaluate("each => each.scrollWidth - each.clientWidth") == 0
    assert [each for each in found if each[1] not in ([], 0)] == []  # type: ignore[index]
