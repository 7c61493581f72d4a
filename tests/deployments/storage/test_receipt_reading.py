"""Receipts in files, whole and otherwise."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import pytest
import sd_parsers
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deployments.storage.encode import read_parameters
from deployments.storage.parameters import parameters_text
from deployments.storage.receipt import MAX_BYTES, PNG_KEYWORD, parse_receipt
from deployments.storage.receipt_reading import find_receipt, read_receipt
from deployments.storage.xmp import packet
from pipelines.errors import InvalidRequest
from tests.deployments.receipts import FINISH, PARAMS, file_with, receipt

FORMATS = ("png", "jpeg", "webp")
ODD = "]]> & <a b='c'> \"q\" \\u0041 \x7f\x85\u2028\ufffe \U0001f408\t\r\n"

in_each_format = pytest.mark.parametrize("output_format", FORMATS)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def with_chunk(name: bytes, content: bytes, *, count: int = 1) -> bytes:
    """A PNG with another chunk before its end."""
    plain = file_with("")
    return plain[:-12] + png_chunk(name, content) * count + plain[-12:]


def packed_text(text: bytes) -> bytes:
    """A PNG whose receipt is packed, as other tools may leave it."""
    return with_chunk(b"iTXt", PNG_KEYWORD.encode() + b"\0\1\0\0\0" + text)


@in_each_format
@pytest.mark.parametrize("prompt", ["a cat", ODD, ODD * 500, "\U0001f408" * 32_000])
def test_a_file_has_it_as_it_was_written(output_format: str, prompt: str):
    params = replace(PARAMS, prompt=prompt, negative_prompt=prompt[::-1])
    read = read_receipt(file_with(receipt(params), output_format))
    assert read == parse_receipt(receipt(params))
    assert read.request["prompt"] == prompt


@in_each_format
def test_the_text_for_other_tools_is_as_before(output_format: str):
    text = parameters_text(PARAMS, FINISH, steps_run=12, cuts=())
    file = file_with(receipt(), output_format, text)
    assert read_parameters(file) == text
    read = sd_parsers.ParserManager().parse(Image.open(io.BytesIO(file)))
    assert read is not None
    (sampler,) = read.samplers
    assert [each.value for each in sampler.prompts] == [PARAMS.prompt]
    assert sampler.parameters["seed"] == str(FINISH.seed)


@in_each_format
def test_a_file_that_was_stripped(output_format: str):
    assert find_receipt(file_with("", output_format)) is None
    stripped = io.BytesIO()
    with Image.open(io.BytesIO(file_with(receipt(), output_format))) as image:
        Image.frombytes(image.mode, image.size, image.tobytes()).save(stripped, output_format)
    with pytest.raises(InvalidRequest, match="the file has no receipt"):
        read_receipt(stripped.getvalue())


@in_each_format
@pytest.mark.parametrize("prompt", ["a cat", "\U0001f408" * 20_000])
def test_a_file_that_is_not_whole(output_format: str, prompt: str):
    file = file_with(receipt(replace(PARAMS, prompt=prompt)), output_format)
    ends = [*range(20, min(len(file), 2_000), 7), len(file) // 2, len(file) - 2]
    for end in ends:
        with pytest.raises(InvalidRequest, match=r"not whole|no image|damaged JPEG"):
            read_receipt(file[:end])


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"RIFF\0\0\0\0WAVE", b"\x89PNG", bytes(1000)])
def test_what_is_no_image(data: bytes):
    with pytest.raises(InvalidRequest, match="no image of a kind drawn here"):
        read_receipt(data)


def test_pixels_are_never_unpacked():
    width = (2**31 - 1).to_bytes(4)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", width * 2 + b"\x08\2\0\0\0")
    bomb += png_chunk(b"IDAT", zlib.compress(bytes(10**6))) + png_chunk(b"IEND", b"")
    with pytest.raises(InvalidRequest, match="the file has no receipt"):
        read_receipt(bomb)


def test_a_png_whose_checksum_does_not_fit():
    changed = file_with(receipt()).replace(b"a cat", b"a bat")
    with pytest.raises(InvalidRequest, match="damaged PNG: its 'iTXt' has another checksum"):
        find_receipt(changed)


def test_a_receipt_may_be_packed():
    packed = packed_text(zlib.compress(receipt().encode()))
    assert read_receipt(packed) == parse_receipt(receipt())


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (packed_text(zlib.compress(b" " * 50 * MAX_BYTES)), "is over"),
        (packed_text(zlib.compress(receipt().encode())[:-9]), "ends too early"),
        (packed_text(b"no zlib"), "damaged: Error"),
        (with_chunk(b"iTXt", PNG_KEYWORD.encode() + b"\0\0"), "chunk is not whole"),
        (with_chunk(b"iTXt", PNG_KEYWORD.encode() + b"\0\0\0\0\0\xff"), "not UTF-8"),
        (with_chunk(b"tEXt", b"x\0y", count=70_000), "it has over 65536 parts"),
        (file_with("{}"), "no number of its format"),
    ],
)
def test_a_receipt_that_is_damaged_or_hostile(file: bytes, why: str):
    with pytest.raises(InvalidRequest, match=why):
        read_receipt(file)


def test_several_receipts():
    chunks = PngInfo()
    for seed in (1, 2):
        chunks.add_itxt(PNG_KEYWORD, receipt(finish=replace(FINISH, seed=seed)))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png", pnginfo=chunks)
    with pytest.raises(InvalidRequest, match="several receipts"):
        read_receipt(file.getvalue())


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_xmp_of_other_programs_is_no_receipt(output_format: str):
    file = io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    Image.new("RGB", (8, 8)).save(file, output_format, xmp=xmp)
    assert find_receipt(file.getvalue()) is None
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), output_format, xmp=b"<x")
    with pytest.raises(InvalidRequest, match="XMP is damaged"):
        find_receipt(file.getvalue())


def test_a_long_packet_of_a_webp_is_bounded():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "webp", xmp=packet("x" * 5 * MAX_BYTES))
    with pytest.raises(InvalidRequest, match="XMP is over"):
        read_receipt(file.getvalue())


@in_each_format
def test_no_changed_byte_raises_anything_else(output_format: str):
    file, refused = bytearray(file_with(receipt(), output_format)), 0
    for at in range(len(file)):
        file[at] ^= 0x41
        try:
            find_receipt(bytes(file))
        except InvalidRequest:
            refused += 1
        file[at] ^= 0x41
    assert 0 < refused < len(file)


def test_several_packets_of_a_jpeg():
    file = file_with(receipt(), "jpeg")
    segment = b"http://ns.adobe.com/xap/1.0/\0" + packet("{}")
    file = file[:2] + b"\xff\xe1" + (2 + len(segment)).to_bytes(2) + segment + file[2:]
    with pytest.raises(InvalidRequest, match="several XMP packets"):
        find_receipt(file)
