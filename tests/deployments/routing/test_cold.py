"""Whether a pool sleeps, and for how long yet: by times that are given."""

from __future__ import annotations

import pytest

from deployments.routing.cold import OVERDUE_SHARE, SILENCE_S, ColdState
from deployments.routing.pools import pool_of

CONFIGURED_S = 30.0


def sleeping() -> ColdState:
    sleep = ColdState()
    sleep.runs(0, 0.0)
    return sleep


def woken(sleep: ColdState, *, wished: float, runs: float) -> ColdState:
    """Woken and asleep again."""
    sleep.wished(wished)
    sleep.runs(1, runs)
    sleep.runs(0, runs + 1)
    return sleep


def test_what_is_not_known_is_not_asleep() -> None:
    sleep = ColdState()
    assert not sleep.is_cold(1e9)
    sleep.opened(10.0)
    assert not sleep.is_cold(10.0)
    assert sleep.remaining_s(CONFIGURED_S, 10.0) == 0.0


def test_a_router_that_hears_of_no_replica_has_none() -> None:
    sleep = ColdState()
    sleep.opened(10.0)
    assert sleep.is_cold(10.0 + SILENCE_S)
    sleep.runs(2, 12.0)
    sleep.opened(12.0)  # another handle's router
    assert not sleep.is_cold(20.0)


def test_it_sleeps_from_its_last_replica_to_its_next_first() -> None:
    sleep = ColdState()
    sleep.runs(2, 0.0)
    assert not sleep.is_cold(1.0)
    sleep.runs(0, 2.0)
    assert sleep.is_cold(2.0)
    sleep.runs(1, 3.0)
    assert not sleep.is_cold(3.0)


def test_a_start_takes_what_is_configured_until_one_was_measured() -> None:
    sleep = sleeping()
    assert sleep.remaining_s(CONFIGURED_S, 5.0) == CONFIGURED_S
    sleep.wished(5.0)
    assert sleep.remaining_s(CONFIGURED_S, 15.0) == 20.0
    sleep.runs(1, 17.0)
    assert sleep.remaining_s(CONFIGURED_S, 17.0) == 0.0
    sleep.runs(0, 100.0)
    assert sleep.remaining_s(CONFIGURED_S, 200.0) == 12.0


def test_starts_are_averaged_the_latest_counting_most() -> None:
    sleep = woken(sleeping(), wished=0.0, runs=8.0)
    woken(sleep, wished=100.0, runs=104.0)
    assert sleep.remaining_s(CONFIGURED_S, 200.0) == 6.0
    woken(sleep, wished=200.0, runs=202.0)
    assert sleep.remaining_s(CONFIGURED_S, 300.0) == 4.0


def test_a_start_counts_from_the_first_wish() -> None:
    sleep = sleeping()
    sleep.wished(10.0)
    sleep.wished(15.0)
    sleep.runs(1, 20.0)
    sleep.wished(21.0)  # it runs
    sleep.runs(2, 30.0)
    sleep.runs(0, 40.0)
    assert sleep.remaining_s(CONFIGURED_S, 50.0) == 10.0


def test_a_start_that_nobody_here_wished_for_is_not_measured() -> None:
    sleep = sleeping()
    sleep.runs(1, 3.0)
    sleep.runs(0, 4.0)
    assert sleep.remaining_s(CONFIGURED_S, 5.0) == CONFIGURED_S


def test_a_wish_that_was_refused_begins_no_start() -> None:
    sleep = sleeping()
    sleep.wished(0.0)
    sleep.given_up()
    assert sleep.remaining_s(CONFIGURED_S, 1000.0) == CONFIGURED_S
    sleep.wished(1000.0)
    sleep.runs(1, 1007.0)
    sleep.runs(0, 1008.0)
    assert sleep.remaining_s(CONFIGURED_S, 1010.0) == 7.0


def test_an_overdue_start_is_never_about_to_end() -> None:
    sleep = sleeping()
    sleep.wished(0.0)
    assert sleep.remaining_s(CONFIGURED_S, 100.0) == pytest.approx(OVERDUE_SHARE * 100)
    assert sleep.remaining_s(CONFIGURED_S, 300.0) == pytest.approx(OVERDUE_SHARE * 300)


def test_who_asked_before_it_ran_has_waited_and_who_asked_after_has_not() -> None:
    sleep = sleeping()
    assert sleep.waited_s(0.0) == 0.0
    sleep.runs(1, 12.0)
    assert sleep.waited_s(5.0) == 7.0
    assert sleep.waited_s(12.0) == 0.0
    sleep.runs(3, 20.0)  # more of them are no start
    assert sleep.waited_s(15.0) == 0.0


def test_a_pool_goes_by_application_and_deployment() -> None:
    one = pool_of("one", "Denoiser")
    assert pool_of("one", "Denoiser") is one
    assert len({id(pool_of(*name)) for name in (("two", "Denoiser"), ("one", "Other"))}) == 2
    assert pool_of("two", "Denoiser") is not one
