"""Traces of the whole product on a real cluster, while a denoiser is killed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.tracing import coverage_of, spans_of
from tests.cluster import is_whole, kill_busiest, ongoing, paused, replica_processes, wait_until
from tests.serve.rollout import APP, change, is_running, traces_of

pytestmark = pytest.mark.cluster

URL = "/v1/images/generations"
LEAST_COVERED = 0.98
LONG = {"prompt": "a green star", "size": "256x256", "num_inference_steps": 60}
SHORT = {"prompt": "a red circle", "num_inference_steps": 8}
AMPLE_S = 0.3
"""Work of a denoiser that is surely not done a few milliseconds later."""

Span = dict[str, Any]


@pytest.fixture(scope="module")
def client(rollout_client: httpx.Client, rollout_file: Path) -> Iterator[httpx.Client]:
    """A client of the application with two ingresses, and two denoisers that share ticks."""
    change(
        rollout_file,
        {"name": "Ingress", "num_replicas": 2},
        {"name": "Denoiser", "num_replicas": 2, "user_config": {"max_works": 4}},
    )
    wait_until(lambda: is_running() and is_whole(APP))
    yield rollout_client
    change(rollout_file)


@pytest.fixture(scope="module")
def traces(client: httpx.Client, rollout_file: Path) -> dict[str, list[Span]]:
    """Of a mixed load, by trace id, with some of the client's own, and one that it does not record;
    two long requests lose their denoiser."""
    headers = [
        {"traceparent": f"00-{number:032x}-{'b' * 16}-{flags}"}
        for number, flags in ((0xA, "01"), (0xB, "01"), (0xC, "00"))
    ]
    sent: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({**LONG, "seed": 1}, {}),
        ({**LONG, "seed": 2, "n": 2}, headers[0]),
        ({**LONG, "seed": 3}, {}),
        ({**SHORT, "n": 4}, headers[1]),
        ({**SHORT, "size": "128x128"}, headers[2]),
        ({**SHORT, "negative_prompt": "blue", "true_cfg_scale": 2.0}, {}),
    ]
    # Small ones, of which a tick holds several.
    small = [{**SHORT, "num_inference_steps": 100, "size": "64x64", "seed": i} for i in range(6)]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = [pool.submit(client.post, URL, json=body, headers=h) for body, h in sent]
        kill_busiest(APP, least_s=AMPLE_S)
        statuses = [answer.result().status_code for answer in answers]
        denoisers = replica_processes("Denoiser", app=APP)
        with paused(denoisers):  # until all six wait for them, so that they begin together
            answers += [pool.submit(client.post, URL, json=body) for body in small]
            wait_until(lambda: ongoing("Ingress", app=APP) == len(small))
        statuses += [answer.result().status_code for answer in answers[len(sent) :]]
        while len(_ingresses_of([answer.result() for answer in answers], client)) < 2:
            answers.append(pool.submit(client.post, URL, json=SHORT))
            statuses.append(answers[-1].result().status_code)
    assert statuses == [200] * len(answers)
    ids = {answer.result().headers["x-trace-id"] for answer in answers} - {f"{0xC:032x}"}
    file = traces_of(rollout_file)
    wait_until(lambda: ids <= _traces_in(file).keys())
    assert f"{0xC:032x}" not in _traces_in(file)
    return {trace_id: spans for trace_id, spans in _traces_in(file).items() if trace_id in ids}


def _traces_in(file: Path) -> dict[str, list[Span]]:
    """By trace id, of whole lines."""
    found = map(spans_of, lines(file))
    return {spans[0]["traceId"]: spans for spans in found}


def _ingresses_of(answers: Iterable[httpx.Response], client: httpx.Client) -> set[str]:
    """The ingress replicas that have given these answers, as far as they are recorded."""
    urls = [f"/v1/traces/{answer.headers['x-trace-id']}" for answer in answers]
    traces = [client.get(url) for url in urls]
    return set().union(*(instances(trace.json()) for trace in traces if trace.status_code == 200))


def instances(otlp: dict[str, Any]) -> set[str]:
    return {
        attribute["value"]["stringValue"]
        for attribute in otlp["resourceSpans"][0]["resource"]["attributes"]
        if attribute["key"] == "service.instance.id"
    }


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span["name"] == name]


def shown(spans: list[Span]) -> list[Span]:
    """Without what the file says otherwise, which is the operator's own."""
    hidden = {"sluice.tenant", "url.path"}
    return [
        {**span, "attributes": [each for each in span["attributes"] if each["key"] not in hidden]}
        for span in spans
    ]


def value(span: Span, key: str) -> Any:
    for item in span["attributes"]:
        if item["key"] == key:
            return next(iter(item["value"].values()))
    raise KeyError(key)


def test_any_ingress_replica_shows_any_trace(
    client: httpx.Client, traces: dict[str, list[Span]]
) -> None:
    replicas = {
        instance
        for trace_id in traces
        for instance in instances(client.get(f"/v1/traces/{trace_id}").json())
    }
    for trace_id, spans in traces.items():
        for _ in range(3):
            assert shown(spans_of(client.get(f"/v1/traces/{trace_id}").json())) == shown(spans)
            listed = client.get("/traces").json()["data"]
            assert {trace["trace_id"] for trace in listed} >= set(traces)
    assert len(replicas) == 2


def test_each_request_has_one_root_and_no_span_is_an_orphan(
    traces: dict[str, list[Span]],
) -> None:
    for trace_id, spans in traces.items():
        root, *others = spans
        ids = {span["spanId"] for span in spans}
        assert len(ids) == len(spans)
        assert {span["traceId"] for span in spans} == {trace_id}
        assert root.get("parentSpanId") in (None, "b" * 16)
        assert all(span["parentSpanId"] in ids for span in others)


def test_spans_cover_the_time_of_a_request_and_stay_within_it(
    traces: dict[str, list[Span]],
) -> None:
    for spans in traces.values():
        assert coverage_of(spans) >= LEAST_COVERED
        start, end = (int(spans[0][f"{name}TimeUnixNano"]) for name in ("start", "end"))
        assert all(start <= int(span["startTimeUnixNano"]) for span in spans)
        assert all(int(span["endTimeUnixNano"]) <= end for span in spans)


def test_every_stage_tells_of_each_image(traces: dict[str, list[Span]]) -> None:
    for spans in traces.values():
        images = int(value(spans[0], "gen_ai.request.choice.count"))
        assert len(named(spans, "image")) == images
        for name in ("decode.run", "safety.run", "finish.run", "store"):
            assert len(named(spans, name)) == images
        runs = named(spans, "denoise.run")
        assert {value(run, "sluice.replica") for run in runs} - {""}
        assert named(spans, "encode.run")


def test_who_shared_a_tick_is_linked(traces: dict[str, list[Span]]) -> None:
    roots = {spans[0]["spanId"]: trace_id for trace_id, spans in traces.items()}
    ticks = [tick for spans in traces.values() for tick in named(spans, "tick")]
    links = [(tick, link) for tick in ticks for link in tick["links"]]
    assert links, "no two requests shared a tick"
    for tick, link in links:
        assert roots[link["spanId"]] == link["traceId"] != tick["traceId"]


def test_an_attempt_whose_replica_was_lost_is_linked_by_the_next(
    traces: dict[str, list[Span]],
) -> None:
    lost = 0
    for spans in traces.values():
        attempts = {span["spanId"]: span for span in named(spans, "denoise")}
        for attempt in attempts.values():
            if value(attempt, "sluice.attempt") == "1":
                assert attempt["links"] == []
                continue
            (link,) = attempt["links"]
            before = attempts[link["spanId"]]
            assert before["status"]["code"] == 2
            assert before["parentSpanId"] == attempt["parentSpanId"]
            assert int(before["endTimeUnixNano"]) <= int(attempt["startTimeUnixNano"])
            # A denoiser may also have given it away, as the other had less to do.
            was_lost = before["status"]["message"] == "a replica of Denoiser was lost"
            assert was_lost or before["status"]["message"] == "handed over"
            told = [span["parentSpanId"] for span in named(spans, "denoise.lost")]
            assert told.count(before["spanId"]) == was_lost
            lost += was_lost
    assert lost, "no image was in the middle"
