"""What the clients ask for."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.requests import MIXED_SIZES, bodies, prompts, square


def test_prompts_differ_and_depend_on_the_seed_alone():
    assert len(set(prompts(3, count=700))) == 700
    assert prompts(3, count=20) == prompts(3, count=20) != prompts(4, count=20)


def test_requests_are_for_one_image_of_a_size_of_the_mix():
    several = list(itertools.islice(bodies(1, MIXED_SIZES), 400))
    assert several == list(itertools.islice(bodies(1, MIXED_SIZES), 400))
    assert {item["n"] for item in several} == {1}
    assert len({item["prompt"] for item in several}) == 400
    for size, share in MIXED_SIZES:
        found = sum(item["size"] == str(size) for item in several) / 400
        assert found == pytest.approx(share, abs=0.08)
    assert str(square(64)) == "64x64"
