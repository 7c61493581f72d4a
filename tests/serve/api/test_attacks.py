"""What an attack on a running server found to hold, and must go on holding; without a cluster."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections import Counter

import httpx
import pytest
from starlette.types import Message

from serve.api.services import Services
from serve.http import create_app
from tests.serve.api.test_disconnect import BODY, SCOPE
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
PLACES = 200


def small(graph: FakeGraph) -> Services:
    """With room for few traces, so that what grows is not what is meant to be kept."""
    limits = {"max_queued_images": PLACES, "max_queued_images_per_tenant": PLACES}
    return services(graph, limits=limits, tracing={"max_spans": 100})


async def flood(client: httpx.AsyncClient, graph: FakeGraph, size: int) -> Counter[int]:
    """Send all at once, each again once places are free; how often which status was answered."""
    graph.hangs = True
    graph.go.clear()
    statuses: Counter[int] = Counter()
    is_full, freed = asyncio.Event(), asyncio.Semaphore(0)

    async def one(number: int) -> None:
        while True:
            answer = await client.post(URL, json={"prompt": f"a cat, {number}"})
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                freed.release()
                return
            assert answer.status_code == 429
            assert int(answer.headers["retry-after-ms"]) > 0
            assert answer.json()["error"]["code"] == "overloaded"
            if statuses[429] == size - PLACES:
                is_full.set()
            await freed.acquire()

    sent = asyncio.gather(*(one(number) for number in range(size)))
    await is_full.wait()
    graph.hangs = False
    graph.go.set()
    await sent
    return statuses


@pytest.mark.timeout(300)
async def test_of_a_flood_of_1000_at_200_places_none_is_lost_and_nothing_stays(
    client_of: ClientOf, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.ERROR, logger="ray.serve")  # pytest would keep each line
    graph = FakeGraph()
    given = small(graph)
    client = client_of(given)
    objects: list[int] = []
    for size in (1000, 300, 300):
        statuses = await flood(client, graph, size)
        assert statuses[200] == len(graph.jobs) == size
        assert statuses[429] >= size - PLACES
        graph.jobs.clear()
        graph.steerings.clear()
        graph.forecast_for.clear()
        graph.store.files.clear()
        gc.collect()
        objects.append(len(gc.get_objects()))
    assert given.generations.admission.in_flight == 0
    assert given.generations.sharing._leaders == {}
    assert objects[2] - objects[1] < 300, objects  # not one for each that was answered


@pytest.mark.timeout(120)
async def test_290_disconnects_leave_nothing_behind():
    graph = FakeGraph(hangs=True)
    given = small(graph)
    app = create_app(given)
    before = len(asyncio.all_tasks())

    async def leave() -> None:
        inbox: asyncio.Queue[Message] = asyncio.Queue()

        async def send(_: Message) -> None:
            pass

        inbox.put_nowait({"type": "http.request", "body": BODY, "more_body": False})
        serving = asyncio.create_task(app({**SCOPE}, inbox.get, send))
        await graph.entered.acquire()
        inbox.put_nowait({"type": "http.disconnect"})
        await serving

    for _ in range(10):
        await asyncio.gather(*(leave() for _ in range(29)))
    assert len(graph.jobs) == 290
    assert sorted(graph.cancelled) == sorted(job.request_id for job in graph.jobs)
    assert given.generations.admission.in_flight == 0
    assert given.generations.sharing._leaders == {}
    assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../../../etc/passwd",
        "/v1/files/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/files/%2fetc%2fpasswd",
        "/v1/files/..%5c..%5cetc%5cpasswd",
        "/v1/files/....//....//etc/passwd",
        "/v1/files/" + "a" * 32 + ".png",
        "/v1/files/" + "a" * 32 + "%0a",
        "/v1/files/" + "a" * 32 + "%00.png",
        "/v1/traces/..%2f..%2fetc%2fpasswd",
        "/static/../../etc/passwd",
    ],
)
async def test_paths_lead_nowhere(client: httpx.AsyncClient, path: str):
    answer = await client.request("GET", httpx.URL("http://sluice.test", raw_path=path.encode()))
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/json"
    assert "root:" not in answer.text


@pytest.mark.parametrize("forged", ["x\r\ngeneration request=1\u2028y", "x\ngeneration\x1b[2J"])
@pytest.mark.parametrize("field", ["user", "safety_identifier", "prompt", "model"])
async def test_a_line_of_the_log_cannot_be_made_up(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, field: str, forged: str
):
    caplog.set_level(logging.INFO, logger="ray.serve")
    headers = {"x-request-id": "a b\tgeneration request=req-forged"}
    answer = await client.post(URL, json={"prompt": "a cat", field: forged}, headers=headers)
    lines = [record.getMessage() for record in caplog.records if record.name == "ray.serve"]
    if "\x1b" in forged and field != "model":
        assert answer.json()["error"]["param"] == field  # control characters are refused
        assert lines == []
    else:
        (line,) = lines
        assert not set(line) & set("\r\n\u2028\x1b\t")
        assert line.startswith("generation request=req-")
        assert "req-forged" not in line


async def test_what_a_client_sends_comes_back_as_json_alone(client: httpx.AsyncClient):
    hostile = "<script>alert(1)</script>"
    for body in ({"prompt": hostile, hostile: 1}, {"prompt": 1, "model": hostile}):
        answer = await client.post(URL, json=body)
        assert answer.status_code in (400, 404)
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.text)["error"]["message"]
