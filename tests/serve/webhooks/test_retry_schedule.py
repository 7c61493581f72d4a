"""When messages are sent again."""

from __future__ import annotations

import pytest

from serve.webhooks.retry_schedule import RetrySchedule

DAY = RetrySchedule(max_age_s=86_400.0)


def delays(schedule: RetrySchedule, chance: float = 0.5) -> list[float]:
    found: list[float] = []
    while (delay := schedule.delay_s(len(found) + 1, chance=chance)) is not None:
        found.append(delay)
    return found


def test_a_day_of_growing_delays():
    plain = delays(DAY)
    assert plain[:6] == [5, 20, 80, 320, 1280, 5120]
    assert set(plain[6:]) == {3 * 3600}
    assert 86_400 - 3 * 3600 < sum(plain) <= 86_400


def test_jitter_is_a_quarter_either_way():
    assert DAY.delay_s(1, chance=0.0) == pytest.approx(3.75)
    assert DAY.delay_s(1, chance=1.0) == pytest.approx(6.25)
    assert len(delays(DAY, 0.0)) == len(delays(DAY, 1.0)) == len(delays(DAY))


def test_a_receiver_gets_the_time_it_asks_for_within_bounds():
    assert DAY.delay_s(1, chance=0.5, retry_after_s=60) == 60
    assert DAY.delay_s(1, chance=0.5, retry_after_s=1) == 5
    assert DAY.delay_s(1, chance=0.5, retry_after_s=1e9) == 3 * 3600
    assert DAY.delay_s(100, chance=0.5, retry_after_s=60) is None


def test_no_patience():
    assert delays(RetrySchedule(max_age_s=1.0)) == []
