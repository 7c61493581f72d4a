from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.catalog import find
from pipelines.errors import InvalidRequest
from serve.api.sizes import Ratio, Size, SizeRules
from serve.settings.settings import Limits

RULES = SizeRules(
    multiple=16, default=Size(64, 64), min_side=64, max_side=512, max_pixels=512 * 256
)


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
        ("512x512", "131072 pixels in all, got 512x512; the nearest allowed size is 352x352"),
        ("1024x512", "the nearest allowed size is 512x256"),
        ("48x96", "the nearest allowed size is 64x128"),
    ],
)
def test_refusals_name_the_nearest_size(text: str, said: str):
    with pytest.raises(InvalidRequest) as caught:
        RULES.parse(text)
    assert caught.value.param == "size"
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("model", "text", "nearest"),
    [
        ("sluice-shapes", "1024x1024", "512x512"),
        ("sluice-shapes", "1792x1024", "512x288"),
        ("sluice-shapes", "1024x1792", "288x512"),
        ("sluice-shapes", "1536x1024", "512x336"),
        ("sluice-shapes", "3840x2160", "512x288"),
        ("flux.1-dev", "3840x2160", "2048x1152"),
        ("flux.1-dev", "2160x3840", "1152x2048"),
        ("flux.1-dev", "1920x1080", "1920x1088"),
        ("flux.1-schnell", "4096x4096", "2048x2048"),
    ],
)
def test_sizes_of_screens_and_other_services_keep_their_ratio(model: str, text: str, nearest: str):
    rules = SizeRules.of(find(model), Limits())
    with pytest.raises(InvalidRequest, match=f"the nearest allowed size is {nearest}$"):
        rules.parse(text)


def test_a_ratio_without_any_size():
    rules = SizeRules(
        multiple=16, default=Size(64, 64), min_side=64, max_side=128, max_pixels=64 * 80
    )
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
        multiple=16,
        default=Size(16, 16),
        min_side=16 * low,
        max_side=16 * high,
        max_pixels=(16 * low) ** 2 + spare,
    )
    nearest = rules.nearest(Size(*size))
    assert rules.parse(str(nearest)) == nearest


@given(
    sides=st.tuples(st.integers(1, 8192), st.integers(1, 8192)),
    low=st.integers(1, 8),
    high=st.integers(8, 128),
    spare=st.integers(0, 10**7),
)
@example(sides=(1024, 1792), low=4, high=32, spare=10**7)
@example(sides=(2160, 3840), low=4, high=128, spare=10**7)
def test_the_nearest_size_keeps_the_ratio_and_turns_with_it(
    sides: tuple[int, int], low: int, high: int, spare: int
):
    rules = SizeRules(
        multiple=16,
        default=Size(16, 16),
        min_side=16 * low,
        max_side=16 * high,
        max_pixels=(16 * low) ** 2 + spare,
    )
    nearest = rules.nearest(Size(*sides))
    assert rules.nearest(Size(*reversed(sides))) == Size(*reversed(nearest))
    assert (nearest.height > nearest.width) <= (sides[0] > sides[1])
    longest = min(rules.max_side, rules.max_pixels // rules.min_side // 16 * 16)
    asked, most = max(sides) / min(sides), longest / rules.min_side
    ratio = min(asked, most)
    # Some size of just that ratio is less than a step away on both sides, be it off the grid.
    short, long = sorted(nearest)
    assert max(short - 16, (long - 16) / ratio) < min(short + 16, (long + 16) / ratio)
    if asked <= most and rules.min_side <= min(sides) and max(sides) <= rules.max_side:
        fits = min(1.0, math.sqrt(rules.max_pixels / (sides[0] * sides[1])))
        assert all(abs(a - b * fits) < 16 for a, b in zip(nearest, sides, strict=True))


@given(st.integers(4, 32), st.integers(4, 16))
def test_an_allowed_size_is_its_own_nearest(height: int, width: int):
    size = Size(16 * height, 16 * width)
    assert RULES.nearest(size) == size
