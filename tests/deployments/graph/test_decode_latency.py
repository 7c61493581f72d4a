from __future__ import annotations

import pytest

from deployments.graph.decode_latency import HALF_LIFE_S, DecodeLatency

SMALL, LARGE = 64 * 64, 1024 * 1024


def test_nothing_is_expected_before_the_first_image_of_a_size() -> None:
    tail = DecodeLatency()
    tail.observe(LARGE, 3.0, now=0.0)
    assert tail.seconds(SMALL, now=0.0) == 0.0
    assert tail.seconds(LARGE, now=0.0) == 3.0


def test_the_estimate_follows_what_is_seen() -> None:
    tail = DecodeLatency()
    tail.observe(SMALL, 1.0, now=0.0)
    tail.observe(SMALL, 2.0, now=0.0)
    assert 1.0 < tail.seconds(SMALL, now=0.0) < 1.5
    for _ in range(50):
        tail.observe(SMALL, 2.0, now=0.0)
    assert tail.seconds(SMALL, now=0.0) == pytest.approx(2.0, rel=1e-3)


def test_one_slow_image_is_forgotten_even_if_no_other_comes() -> None:
    tail = DecodeLatency()
    tail.observe(SMALL, 8.0, now=100.0)
    assert tail.seconds(SMALL, now=100.0 + HALF_LIFE_S) == pytest.approx(4.0)
    assert tail.seconds(SMALL, now=100.0 + 20 * HALF_LIFE_S) < 0.001
    assert tail.seconds(SMALL, now=99.0) == 8.0


def test_what_the_nearest_size_took_last_is_remembered() -> None:
    tail = DecodeLatency()
    assert tail.lately_s(SMALL) == 0.0
    tail.observe(LARGE, 4.0, now=0.0)
    tail.observe(SMALL, 1.0, now=0.0)
    assert tail.lately_s(LARGE) == tail.lately_s(LARGE // 4) == 4.0
    assert tail.lately_s(SMALL) == tail.lately_s(SMALL * 4) == 1.0
