"""Heads of files as Pillow writes them, and what is made of damaged ones."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from serve.api.pictures import heads
from serve.api.pictures.heads import PictureHead, read_head
from tests.serve.api.pictures.samples import bomb, holed, moving, picture, turned

FORMATS = ("png", "jpeg", "webp")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (17, 401)])
def test_size_and_format(file_format: str, size: tuple[int, int]):
    head = read_head(picture(*size, file_format=file_format))
    assert (head.width, head.height) == size
    assert head.upright == (size[1], size[0])
    assert (head.media_type, head.frames) == (f"image/{file_format}", 1)
    assert not head.has_alpha


def test_a_progressive_jpeg_in_cmyk():
    head = read_head(picture(50, 30, file_format="jpeg", mode="CMYK", colour=0, progressive=True))
    assert head == PictureHead(media_type="image/jpeg", width=50, height=30)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_of_all_kinds(mode: str, lossless: bool):
    colour = (1, 2, 3, 128)[: len(mode)]
    data = picture(33, 21, file_format="webp", mode=mode, colour=colour, lossless=lossless)
    head = read_head(data)
    assert (head.width, head.height, head.has_alpha) == (33, 21, mode == "RGBA")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_orientation_as_pillow_obeys_it(file_format: str, orientation: int):
    data = turned(64, 40, orientation, file_format)
    head = read_head(data)
    assert head.orientation == orientation
    with Image.open(io.BytesIO(data)) as image:
        seen = ImageOps.exif_transpose(image)
    assert head.upright == (seen.height, seen.width)


def test_alpha():
    assert read_head(holed()).has_alpha
    assert read_head(picture(mode="LA", colour=0)).has_alpha
    assert read_head(picture(mode="P", colour=0, transparency=0)).has_alpha
    assert not read_head(picture(mode="P", colour=0)).has_alpha


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_what_moves_has_frames(file_format: str):
    assert read_head(moving(file_format)).frames > 1
    assert read_head(moving(file_format, frames=1)).frames == 1


def test_a_bomb_costs_nothing_and_tells_its_size():
    assert read_head(bomb()).upright == (60_000, 60_000)


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_a_file_that_ends_too_early(file_format: str):
    data = picture(64, 64, file_format=file_format)
    for length in (len(data) - 1, len(data) // 2, 30):
        with pytest.raises(ValueError, match="ends too early"):
            read_head(data[:length])


def test_a_jpeg_that_ends_in_its_head():
    data = turned(64, 64, 6)
    start_of_frame = data.index(b"\xff\xc0")
    for length in (3, 20, start_of_frame + 4):
        with pytest.raises(ValueError, match="ends too early"):
            read_head(data[:length])
    with pytest.raises(ValueError, match="without a size"):
        read_head(data[:2] + data[data.index(b"\xff\xda") :])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello", "is no picture; send PNG, JPEG or WebP"),
        (b"II*\0....", "is TIFF"),
        (moving("gif"), "is GIF; send PNG"),
        (b"\x00\x00\x00\x1cftypavif", "HEIF, AVIF"),
        (b"<svg xmlns", "is SVG"),
        (b"RIFF\x20\x00\x00\x00WEBP" + bytes(28), "is a WebP without a head"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x01abcdxyyyy", "is a PNG without a head"),
        (b"\xff\xd8\xff\xe0\x00\x02abcd", "is a JPEG with a damaged head"),
    ],
)
def test_what_is_no_picture(data: bytes, says: str):
    with pytest.raises(ValueError, match=says):
        read_head(data)


def test_parts_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heads, "MAX_PARTS", 40)
    empty = b"\0\0\0\0teXt\0\0\0\0"
    data = picture()
    for file in (
        data[:-12] + empty * 41 + data[-12:],
        b"\xff\xd8\xff" + b"\xe0\x00\x02\xff" * 41,
    ):
        with pytest.raises(ValueError, match="more than 40 parts"):
            read_head(file)


@given(st.sampled_from(FORMATS), st.data())
def test_damage_is_said_and_never_breaks(file_format: str, data: st.DataObject):
    file = bytearray(turned(32, 24, 6, file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, min(len(file), 120) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        said = f"is {read_head(cut).orientation}"
    except ValueError as error:
        said = str(error)
    assert said.startswith("is ")
