"""What a file must be to be a picture, and what it then is."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipelines.errors import InvalidRequest
from pipelines.pictures.reading import DEFAULT_LIMITS, open_picture, rgb_over
from tests.pipelines.pictures.files import SIZE, chunk, encoded, gradient, png_with

RGB = gradient()


def read(data: bytes) -> np.ndarray:
    return np.asarray(rgb_over(open_picture(data, "image")))


def test_the_formats_of_the_web_are_read_as_they_are() -> None:
    assert np.array_equal(read(encoded(RGB)), RGB)
    assert np.array_equal(read(encoded(RGB, "WEBP", lossless=True)), RGB)
    assert np.abs(read(encoded(RGB, "JPEG", quality=95)).astype(int) - RGB).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_which_way_is_up(orientation: int) -> None:
    turned = Image.fromarray(RGB)
    exif = turned.getexif()
    exif[0x0112] = orientation
    expected = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB.transpose(1, 0, 2)[:, ::-1],
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: RGB.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(read(encoded(turned, exif=exif)), expected)


def test_a_colour_profile_is_converted_to_srgb() -> None:
    """Of swapped primaries, made of sRGB's own by exchanging its red and blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = read(encoded(RGB, icc_profile=profile)).astype(int)
    assert np.abs(same - RGB).max() <= 1
    swapped = profile.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    other = read(encoded(RGB, icc_profile=swapped)).astype(int)
    assert np.abs(other[..., ::-1] - RGB).max() <= 2


def test_what_is_transparent_gets_the_background() -> None:
    alpha = np.zeros(RGB.shape[:2], np.uint8)
    alpha[:, :20] = 255
    picture = open_picture(encoded(np.dstack([RGB, alpha])), "image")
    found = np.asarray(rgb_over(picture, (10, 20, 30)))
    assert np.array_equal(found[:, :20], RGB[:, :20])
    assert (found[:, 20:] == (10, 20, 30)).all()


def test_palettes_grey_and_16_bits_become_8_bits_rgb() -> None:
    few = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(read(encoded(few)), np.asarray(few.convert("RGB")))
    keyed = encoded(few, transparency=few.getpixel((0, 0)))
    assert (read(keyed)[0, 0] == 255).all()
    grey = RGB[..., 0]
    assert np.array_equal(read(encoded(grey)), np.dstack([grey] * 3))
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(read(encoded(deep)), np.dstack([grey] * 3))
    assert set(np.unique(read(encoded(Image.fromarray(grey > 99))))) == {0, 255}


CYMK = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG")
ANIMATED = io.BytesIO()
Image.fromarray(RGB).save(
    ANIMATED, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]
)
MOVING = io.BytesIO()
Image.fromarray(RGB).save(MOVING, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
BOMB = zlib.compress(bytes(64 * 2**20))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (b"GIF89a" + bytes(20), "cannot be read"),
        (b"<svg/>", "send a whole PNG, JPEG or WebP file"),
        (encoded(RGB)[:-60], "cannot be read"),
        (encoded(RGB, "JPEG")[:-300], "cannot be read"),
        (encoded(RGB, "WEBP")[:-60], "cannot be read"),
        (CYMK, "is CMYK without a colour profile"),
        (encoded(np.zeros((1, 1, 3), np.uint8)), "is 1x1; each side must have 16 to 16384"),
        (encoded(np.zeros((1, 40_000, 3), np.uint8)), "is 40000x1; each side"),
        (png_with(size=(16_000, 16_000)), "is 16000x16000; send at most 50000000 pixels"),
        (png_with(size=(90_000, 90_000)), "each side must have"),
        (ANIMATED.getvalue(), "has 2 frames"),
        (MOVING.getvalue(), "has 2 frames"),
        (png_with(chunk(b"acTL", struct.pack(">II", 2**31, 0))), "frames"),
        (png_with(*[chunk(b"tEXt", b"a\0b")] * 300), "more than 256 chunks"),
        (png_with(*[chunk(b"abCd", b"")] * 300), "more than 256 chunks"),
        (png_with(chunk(b"zTXt", b"a\0\0" + BOMB)), "more than 4194304 bytes of text"),
        (png_with(chunk(b"iTXt", b"a\0\1\0en\0a\0" + BOMB)), "more than 4194304 bytes of text"),
        (png_with(chunk(b"iCCP", b"a\0\0" + BOMB)), "more than 4194304 bytes of text"),
        (png_with(chunk(b"tEXt", b"a\0" + bytes(5 * 2**20))), "more than 4194304 bytes of text"),
        (encoded(RGB, icc_profile=b"no profile at all"), "has a damaged colour profile"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG without a header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_within_bounds_is_refused_by_its_field(data: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=said) as refused:
        open_picture(data, "image[1]")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.param == "image[1]"
    assert refused.value.message.startswith("image[1]: ")
    assert peak < 24 * 2**20


def test_a_webp_that_claims_to_be_huge_is_refused_by_its_header() -> None:
    whole = encoded(np.dstack([RGB, RGB[..., 0]]), "WEBP", lossless=True)
    for data in (encoded(RGB, "WEBP"), encoded(RGB, "WEBP", lossless=True), whole):
        open_picture(data, "image")
    header = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0"
    with pytest.raises(InvalidRequest, match="is 16384x16384; send at most"):
        open_picture(header + bytes(20), "image")


def test_bounds_are_those_that_are_given() -> None:
    data = encoded(RGB)
    for changes, said in (
        ({"max_bytes": len(data) - 1}, f"is {len(data)} bytes; send at most"),
        ({"max_pixels": SIZE[0] * SIZE[1] - 1}, "is 40x24; send at most 959 pixels"),
        ({"max_side": 39}, "16 to 39 pixels"),
        ({"min_side": 25}, "25 to 16384 pixels"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            open_picture(data, "image", replace(DEFAULT_LIMITS, **changes))
        open_picture(data, "image", replace(DEFAULT_LIMITS, max_bytes=len(data), max_pixels=960))
