from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InvalidRequest
from serve.api.sizes import Ratio, Size, SizeRules

RULES = SizeRules(default=Size(64, 64), min_side=64, max_side=512, max_pixels=512 * 256)


def test_width_comes_first():
    assert RULES.parse("128x64") == Size(height=64, width=128)
    assert RULES.parse("128X64") == RULES.parse(" 128×64 ") == Size(height=64, width=128)
    assert str(Size(height=64, width=128)) == "128x64"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'auto' or 'WIDTHxHEIGHT'"),
        ("64", "'auto' or 'WIDTHxHEIGHT'"),
        ("64x64x64", "such as '64x64'"),
        ("٦٤x64", "'auto' or 'WIDTHxHEIGHT'"),
        ("1e3x64", "'auto' or 'WIDTHxHEIGHT'"),
        ("100x64", "multiples of 16, got 100x64; the nearest allowed size is 96x64"),
        ("0x64", "64 to 512 pixels, got 0x64; the nearest allowed size is 64x64"),
        ("-64x64", "64 to 512 pixels"),
        ("32x32", "the nearest allowed size is 64x64"),
        ("99999x64", "multiples of 16, got 99999x64; the nearest allowed size is 512x64"),
        ("528x64", "64 to 512 pixels, got 528x64; the nearest allowed size is 512x64"),
        ("512x512", "at most 131072 pixels in all, got 512x512"),
    ],
)
def test_refusals_name_the_nearest_size(text: str, said: str):
    with pytest.raises(InvalidRequest) as caught:
        RULES.parse(text)
    assert caught.value.param == "size"
    assert said in caught.value.message


def test_a_ratio_without_any_size():
    rules = SizeRules(default=Size(64, 64), min_side=64, max_side=128, max_pixels=64 * 80)
    assert rules.for_ratio(Ratio.in_prompt((1, 1)), Size(64, 64)) == Size(64, 64)
    with pytest.raises(InvalidRequest, match="prompt: --ar 3:1 has no size") as caught:
        rules.for_ratio(Ratio.in_prompt((3, 1)), Size(64, 64))
    assert caught.value.param == "prompt"


@given(
    size=st.tuples(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9)),
    low=st.integers(1, 8),
    high=st.integers(8, 128),
    spare=st.integers(0, 10**7),
)
def test_the_nearest_size_is_always_allowed(size: tuple[int, int], low: int, high: int, spare: int):
    rules = SizeRules(
        default=Size(16, 16),
        min_side=16 * low,
        max_side=16 * high,
        max_pixels=(16 * low) ** 2 + spare,
    )
    nearest = rules.nearest(Size(*size))
    assert rules.parse(str(nearest)) == nearest


@given(st.integers(4, 32), st.integers(4, 16))
def test_an_allowed_size_is_its_own_nearest(height: int, width: int):
    size = Size(16 * height, 16 * width)
    assert RULES.nearest(size) == size
