"""When pictures are tiled."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigurationError
from pipelines.provenance import StageProvenance, of_size
from pipelines.tiling import Tiling, tiling_for

GIB = 2**30


@pytest.mark.parametrize(
    ("height", "width", "tiled"),
    [
        (1024, 1024, False),
        (1024, 1952, False),
        (1024, 1954, True),
        (4000, 500, True),
        (16, 2_000_000, True),
        (2000, 999, False),
    ],
)
def test_a_picture_is_tiled_by_its_pixels_if_it_is_larger_than_a_tile(
    height: int, width: int, tiled: bool
):
    rule = Tiling(size=1024, from_pixels=2_000_000)
    assert rule.covers(height, width) is tiled
    assert rule.covers(width, height) is tiled


def test_one_that_fits_into_a_tile_is_whole_whatever_the_rule():
    rule = Tiling(size=1024, from_pixels=1)
    assert not rule.covers(1024, 1024)
    assert rule.covers(1024, 1040)


@pytest.mark.parametrize(
    ("from_pixels", "pixels", "at_once"),
    [(1, 4096, 4096), (1, 2048**2, 1024**2), (3_000_000, 2048**2, 2_999_999), (2**40, 9, 9)],
)
def test_what_is_worked_on_at_once(from_pixels: int, pixels: int, at_once: int):
    assert Tiling(size=1024, from_pixels=from_pixels).pixels_at_once(pixels) == at_once


def test_by_default_a_batch_takes_a_quarter_of_the_memory_at_most():
    def rule(memory: int) -> int:
        found = tiling_for(1024, None, memory=memory, bytes_of=lambda pixels: 1536 * pixels)
        assert found is not None
        assert found.size == 1024
        return found.from_pixels

    quarter = 80 * GIB // 4
    assert 1536 * rule(80 * GIB) <= quarter < 1536 * (rule(80 * GIB) + 65_536)
    # GPUs of one type differ by some MiB.
    assert rule(80 * GIB + 900 * 2**20) == rule(80 * GIB)
    assert rule(40 * GIB) < rule(80 * GIB)
    assert rule(0) == rule(2**20) > 0


def test_the_option_has_its_way():
    found = tiling_for(512, 700_000, memory=GIB, bytes_of=lambda pixels: pixels)
    assert found == Tiling(size=512, from_pixels=700_000)
    assert str(found) == "tiles of 512 from 700000 pixels"


def test_without_tiles_there_is_no_rule_and_no_option():
    assert tiling_for(0, None, memory=GIB, bytes_of=lambda pixels: pixels) is None
    with pytest.raises(ConfigurationError, match=r"^here\.tile_from_pixels: .* leave it out"):
        tiling_for(0, 5, memory=GIB, bytes_of=lambda pixels: pixels, option="here.tile_from_pixels")


def test_provenance_of_a_picture_has_the_rules_that_cover_it():
    rule = Tiling(size=64, from_pixels=10_000)
    vae = StageProvenance(part="vae", weights="a", dtype="float32", device="cpu", tiling=rule)
    text = StageProvenance(part="text_encoder", weights="a", dtype="float32", device="cpu")
    assert of_size((text, vae), 100, 100) == (text, vae)
    small = of_size((text, vae), 100, 99)
    assert [stage.tiling for stage in small] == [None, None]
    assert [stage.part for stage in small] == ["text_encoder", "vae"]
