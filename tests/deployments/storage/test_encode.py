from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from deployments.storage.encode import encode_image, read_parameters

PARAMETERS = 'a "quoted" prompt, naïve 猫 🐈\nNegative prompt: none\nSteps: 4, Seed: 7, Size: 32x48'


@pytest.fixture
def pixels() -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:32]
    return np.stack([rows * 5, columns * 7, rows + columns], axis=2).astype(np.uint8)


def _encode(
    pixels: np.ndarray, output_format: str, parameters: str, compression: int = 95
) -> bytes:
    return encode_image(
        pixels,
        output_format=output_format,
        output_compression=compression,
        parameters=parameters,
    )


def _user_comment(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert isinstance(comment, bytes)
    assert comment[:8] == b"UNICODE\x00"
    return comment[8:].decode("utf-16-be")


def test_png_is_lossless_and_carries_the_parameters(pixels: np.ndarray) -> None:
    with Image.open(io.BytesIO(_encode(pixels, "png", PARAMETERS, 0))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels)
        assert image.info["parameters"] == PARAMETERS


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_lossy_files_carry_the_parameters(pixels: np.ndarray, output_format: str) -> None:
    data = _encode(pixels, output_format, PARAMETERS)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == output_format.upper()
        assert image.size == (32, 48)
        assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 12
    assert _user_comment(data) == PARAMETERS


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_the_comments_byte_order_is_the_one_of_its_header(
    pixels: np.ndarray, output_format: str
) -> None:
    data = _encode(pixels, output_format, PARAMETERS)
    with Image.open(io.BytesIO(data)) as image:
        header = image.info["exif"].removeprefix(b"Exif\x00\x00")
    assert header.startswith(b"MM")


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_no_parameters_leave_no_metadata(pixels: np.ndarray, output_format: str) -> None:
    with Image.open(io.BytesIO(_encode(pixels, output_format, ""))) as image:
        assert "parameters" not in image.info
        assert "exif" not in image.info


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression_is_the_quality_over_its_whole_range(
    pixels: np.ndarray, output_format: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sizes = [len(_encode(noise, output_format, "", quality)) for quality in (0, 50, 100)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_lone_surrogates_do_not_break_a_file(pixels: np.ndarray, output_format: str) -> None:
    with Image.open(io.BytesIO(_encode(pixels, output_format, "a \ud800 b"))) as image:
        assert image.size == (32, 48)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_the_text_is_read_as_it_was_written(pixels: np.ndarray, output_format: str) -> None:
    assert read_parameters(_encode(pixels, output_format, PARAMETERS)) == PARAMETERS


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_most_formats_hold_a_text_of_any_length(pixels: np.ndarray, output_format: str) -> None:
    text = "🐈" * 64_000 + "\nSteps: 4, Seed: 7"
    assert read_parameters(_encode(pixels, output_format, text)) == text


@pytest.mark.parametrize("letter", ["x", "é", "🐈"])
def test_a_prompt_too_long_for_a_jpeg_loses_its_end_but_no_settings(
    pixels: np.ndarray, letter: str
) -> None:
    settings = "Steps: 4, Seed: 7"
    comment = _user_comment(_encode(pixels, "jpeg", letter * 64_000 + "\n" + settings))
    assert comment.endswith("…\n" + settings)
    assert comment.startswith(letter * 16_000)
    assert "\ufffd" not in comment


def test_another_format_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="gif"):
        _encode(pixels, "gif", "")
