"""Previews beside the engine: small pictures, dropped rather than queued, and nobody's failure."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest
import torch
from PIL import Image

from pipelines.previews.preview import Preview
from pipelines.previews.previewer import LONGEST, Predicted, Previewer


class Colours:
    """Latents are colours; decoding waits for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        assert self.gate.wait(60)
        if self.fails:
            raise RuntimeError("no colours")
        return latents


def unpacked(latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return latents.T.reshape(3, height // 16, width // 16)


@pytest.fixture
def colours() -> Colours:
    return Colours()


@pytest.fixture
def previewer(colours: Colours) -> Iterator[Previewer]:
    made = Previewer(colours, unpacked, device=torch.device("cpu"))
    yield made
    colours.gate.set()
    made.close()


def predicted(
    shown: SimpleQueue[Preview],
    *,
    value: float = 1.0,
    height: int = 64,
    width: int = 32,
    step: int = 3,
) -> Predicted:
    tokens = height // 16 * (width // 16)
    return Predicted(
        work_id="a",
        step=step,
        num_steps=9,
        latents=torch.tensor([value, 0.0, -5.0]).expand(tokens, 3),
        height=height,
        width=width,
        on_preview=shown.put,
    )


def test_a_preview_is_a_small_picture(previewer: Previewer) -> None:
    shown = SimpleQueue[Preview]()
    previewer.offer([predicted(shown)])
    preview = shown.get(timeout=60)
    assert (preview.work_id, preview.step, preview.num_steps) == ("a", 3, 9)
    assert (preview.width, preview.height, preview.media_type) == (32, 64, "image/jpeg")
    picture = Image.open(io.BytesIO(preview.data))
    assert (picture.format, picture.size) == ("JPEG", (32, 64))
    red, green, blue = picture.convert("RGB").getpixel((16, 32))  # pyright: ignore
    assert (red > 250, 120 < green < 136, blue < 5) == (True, True, True)


def test_it_is_never_larger_than_need_be(previewer: Previewer) -> None:
    shown = SimpleQueue[Preview]()
    previewer.offer([predicted(shown, height=1024, width=2048)])
    preview = shown.get(timeout=60)
    assert (preview.width, preview.height) == (LONGEST, LONGEST // 2)


def test_what_comes_while_it_is_busy_is_dropped(previewer: Previewer, colours: Colours) -> None:
    shown = SimpleQueue[Preview]()
    assert previewer.is_idle
    colours.gate.clear()
    previewer.offer([predicted(shown, step=1), predicted(shown, step=2)])
    assert not previewer.is_idle
    previewer.offer([predicted(shown, step=3)])
    colours.gate.set()
    assert [shown.get(timeout=60).step for _ in range(2)] == [1, 2]
    previewer.close()
    assert shown.empty()


def test_what_cannot_be_shown_is_not(
    previewer: Previewer, colours: Colours, caplog: pytest.LogCaptureFixture
) -> None:
    shown = SimpleQueue[Preview]()
    previewer.offer([predicted(shown, value=float("nan")), predicted(shown, step=4)])
    assert shown.get(timeout=60).step == 4
    assert caplog.text == ""
    colours.fails = True
    while not previewer.is_idle:
        threading.Event().wait(0.001)
    previewer.offer([predicted(shown)])
    previewer.close()
    assert previewer.is_idle
    assert "a preview could not be made" in caplog.text
    assert shown.empty()
