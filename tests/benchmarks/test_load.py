"""The load generator: what it sends, counts and times."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.load import ROUNDS, HttpClient, Outcome, closed_loop, open_loop, steady_rate
from tests.benchmarks.fake_server import running


def two_images(request: dict[str, object]) -> tuple[int, str]:
    return 200, '{"data": [{"b64_json": "x"}, {"b64_json": "y"}]}'


async def test_a_closed_loop_keeps_its_places_filled_over_kept_connections():
    async with running(two_images) as server:
        bodies = ({"number": number} for number in itertools.count())
        async with HttpClient(server.url) as client:
            outcomes = await closed_loop(client, bodies, in_flight=4, seconds=0.0)
    assert len(outcomes) >= ROUNDS * 4
    assert server.most_in_flight <= 4
    assert len(server.handlers) <= 4
    assert [request["number"] for request in server.requests] == list(range(len(outcomes)))
    assert {(item.status, item.images) for item in outcomes} == {(200, 2)}
    assert sorted(item.index for item in outcomes) == list(range(len(outcomes)))
    assert outcomes[0].headers["x-kind"] == "fake"


async def test_an_open_loop_sends_what_is_due_whatever_came_of_the_rest():
    def refuse_the_first(request: dict[str, object]) -> tuple[int, str]:
        return two_images(request) if request["number"] else (503, "busy")

    async with running(refuse_the_first) as server, HttpClient(server.url) as client:
        outcomes = await open_loop(
            client, [0.0, 0.0, 0.01], lambda number, late_s: {"number": number}
        )
    assert [item.index for item in outcomes] == [0, 1, 2]
    assert [item.sent_s for item in outcomes] == [0.0, 0.0, 0.01]
    assert [(item.status, item.images) for item in outcomes] == [(503, 0), (200, 2), (200, 2)]
    assert all(item.answered_s >= item.sent_s for item in outcomes)


async def test_a_server_that_is_gone_is_an_outcome():
    async with running(two_images) as server:
        url = server.url
    async with HttpClient(url) as client:
        (outcome,) = await open_loop(client, [0.0], lambda number, late_s: {})
    assert (outcome.status, outcome.images) == (0, 0)


def outcomes_at(*times: float) -> list[Outcome]:
    return [
        Outcome(index=i, sent_s=0.0, answered_s=at, status=200, headers={}, images=1)
        for i, at in enumerate(times)
    ]


def test_a_steady_rate_leaves_ramp_and_drain_out():
    # Batches of two, every second; the first is late, and the last runs beyond the end.
    batches = outcomes_at(3, 3, 4, 4, 5, 5, 6, 6, 9, 9)
    assert steady_rate(batches, in_flight=2, seconds=6.5) == pytest.approx(2.0)


def test_a_steady_rate_needs_no_more_seconds_than_its_rounds():
    assert steady_rate(outcomes_at(1, 1, 3, 3, 5, 5), in_flight=2, seconds=0.1) == 1.0


def test_a_steady_rate_counts_what_it_is_told_to():
    batches = outcomes_at(1, 1, 3, 3, 5, 5)
    rate = steady_rate(batches, in_flight=2, seconds=0.1, weight=lambda item: 10.0 * item.index)
    assert rate == pytest.approx(10.0 * (2 + 3 + 4 + 5) / 4)
