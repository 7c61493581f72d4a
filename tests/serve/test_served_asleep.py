"""The whole product with all stages asleep: woken at once, and told so."""

from __future__ import annotations

import pytest

from tests.serve.woken import CONFIGURED_S, STAGES, Woken

pytestmark = pytest.mark.cluster


def test_a_preflight_tells_that_all_sleep_and_wakes_none(woken: Woken) -> None:
    assert woken.before["cold_start_ms"] == CONFIGURED_S * 1000
    assert (woken.before["eta_ms"], woken.before["deadline_can_be_met"]) == (None, None)
    assert woken.asked_for_before == set()


def test_a_request_that_comes_too_early_is_told_when_and_wakes_all_stages(woken: Woken) -> None:
    assert woken.refused.status_code == 429, woken.refused.text
    error = woken.refused.json()["error"]
    assert error["code"] == "deadline_unreachable"
    # Some of the start may be over when it is answered.
    assert 1000 < error["earliest_deadline_ms"] <= 2 * CONFIGURED_S * 1000
    assert 0 < int(woken.refused.headers["retry-after-ms"]) <= CONFIGURED_S * 1000
    assert woken.asked_for_after == STAGES


def test_the_first_that_is_drawn_is_told_of_the_start_and_the_next_is_not(woken: Woken) -> None:
    assert woken.first.status_code == 200, woken.first.text
    (warning,) = [
        text for text in woken.first.json()["warnings"] if text.startswith("cold start: ")
    ]
    assert "slept" in warning
    assert "cold_start;dur=" in woken.first.headers["server-timing"]

    assert not [text for text in woken.second.json()["warnings"] if "cold start" in text]
    assert "cold_start" not in woken.second.headers["server-timing"]


def test_what_is_awake_is_said_to_be(woken: Woken) -> None:
    awake = woken.preflight(deadline_ms=600_000)
    assert (awake["asleep"], awake["cold_start_ms"]) == ([], 0)
    assert awake["deadline_can_be_met"]
