from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
LIMIT = 20_000
BODY = json.dumps({"prompt": "a red circle " * 100, "seed": 7}).encode()


@pytest.fixture
def client(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    return client_of(services(graph, limits={"max_body_bytes": LIMIT}))


def headers(encoding: str) -> dict[str, str]:
    return {"content-type": "application/json", "content-encoding": encoding}


def raw_deflate(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("", bytes),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_packed_body_is_read(
    client: httpx.AsyncClient,
    graph: FakeGraph,
    encoding: str,
    pack: Callable[[bytes], bytes],
    piece: int,
):
    packed = pack(BODY)

    async def sent() -> AsyncIterator[bytes]:
        for start in range(0, len(packed), piece):
            yield packed[start : start + piece]

    answer = await client.post(URL, content=sent(), headers=headers(encoding))
    assert answer.status_code == 200, answer.text
    assert graph.jobs[0].params.seed == 7


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br", "nonsense"])
async def test_another_encoding_is_named(client: httpx.AsyncClient, encoding: str):
    answer = await client.post(URL, content=BODY, headers=headers(encoding))
    assert answer.status_code == 415
    assert encoding in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BODY, "is not gzip"),
        (gzip.compress(BODY)[:-9], "ends before its gzip data"),
        (gzip.compress(BODY) + b"{}", "goes on after its gzip data"),
        (gzip.compress(BODY) * 2, "goes on after its gzip data"),
        (b"", "ends before its gzip data"),
        (b"\x1f", "ends before its gzip data"),
    ],
    ids=["plain", "cut", "more", "twice", "empty", "one byte"],
)
async def test_what_is_not_of_its_encoding(client: httpx.AsyncClient, body: bytes, says: str):
    answer = await client.post(URL, content=body, headers=headers("gzip"))
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


async def test_a_bomb_costs_no_more_than_the_limit(client: httpx.AsyncClient, graph: FakeGraph):
    """200 MB from 200 kB would fill the memory before anyone counts them."""
    bomb = gzip.compress(bytes(15_000_000))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    try:
        answer = await client.post(URL, content=bomb, headers=headers("gzip"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert most < 1_000_000
    assert graph.jobs == []


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
async def test_the_limit_is_that_of_what_comes_out(client: httpx.AsyncClient, size: int):
    body = b'{"prompt": "x"' + b" " * (size - 15) + b"}"
    answer = await client.post(URL, content=gzip.compress(body), headers=headers("gzip"))
    assert answer.status_code == (200 if size == LIMIT else 413), answer.text


async def test_what_reads_no_body_is_not_asked_about_it(client: httpx.AsyncClient):
    assert (await client.get("/healthz", headers=headers("br"))).status_code == 200
