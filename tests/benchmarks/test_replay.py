"""From an arrival to a request, and from an answer to its fate."""

from __future__ import annotations

import pytest

from benchmarks.baselines.serve_batch import ImageRequest
from benchmarks.load import Outcome
from benchmarks.replay import replay, request_body, served
from serve.api.schemas import parse_request
from tests.benchmarks.fake_server import running
from tests.benchmarks.test_record import request

ARRIVAL = request(1.0, n=2).arrival


def outcome(**headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Outcome(index=0, sent_s=1.0, answered_s=1.5, status=200, headers=named, images=2)


async def test_arrivals_are_replayed_in_order():
    requests = [request(1.0, n=1).arrival, request(1.0, at_s=0.01, n=2).arrival]
    async with running(lambda body: (200, '"b64_json"' * int(str(body["n"])))) as server:
        fates = await replay(server.url, requests)
    assert [fate.arrival for fate in fates] == requests
    assert all(fate.is_ok for fate in fates)
    assert [body["n"] for body in server.requests] == [1, 2]


def test_both_servers_understand_a_request():
    body = request_body(ARRIVAL, 0.25)
    assert body["deadline_ms"] == 1750
    ours, theirs = parse_request(body), ImageRequest.model_validate(body)
    assert (ours.user, ours.deadline_ms, ours.n) == ("T", 1750, 2)
    assert [task.seed for task in theirs.tasks()] == [1, 2]


def test_a_request_sent_after_its_deadline_still_names_one():
    assert request_body(ARRIVAL, 60.0)["deadline_ms"] == 1


@pytest.mark.parametrize(
    ("headers", "encodes"),
    [
        ({"x_encodes": "1.5000"}, 1.5),
        ({"server_timing": "encode_wait;dur=0.0, encode;dur=4.1, denoise;dur=80.0"}, 1.0),
        ({"server_timing": "encode_wait;dur=3.0, encode;dur=0.0, denoise;dur=80.0"}, 0.0),
        ({}, 0.0),
    ],
)
def test_encodes_are_counted_from_headers(headers: dict[str, str], encodes: float):
    fate = served(ARRIVAL, outcome(**headers))
    assert (fate.encodes, fate.latency_s, fate.is_met) == (encodes, 0.5, True)
