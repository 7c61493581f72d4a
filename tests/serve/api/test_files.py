from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.responses import FileResponse

from tests.serve.fakes import FakeGraph


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/webp"])
async def test_a_file_with_its_type(client: httpx.AsyncClient, graph: FakeGraph, content_type: str):
    file_id = graph.store.put(b"bytes", content_type)
    response = await client.get(f"/v1/files/{file_id}")
    assert response.status_code == 200
    assert response.content == b"bytes"
    assert response.headers["content-type"] == content_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in response.headers["cache-control"]


@pytest.mark.parametrize("file_id", ["0" * 32, "nothing", "..", "%2e%2e", "a%00b"])
async def test_no_such_file(client: httpx.AsyncClient, file_id: str):
    response = await client.get(f"/v1/files/{file_id}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("file_not_found", "not_found")


DATA = bytes(range(100))


@pytest.fixture
def url(graph: FakeGraph) -> str:
    return f"/v1/files/{graph.store.put(DATA, 'image/png')}"


async def test_an_etag_says_that_it_is_known(client: httpx.AsyncClient, url: str):
    etag = (await client.get(url)).headers["etag"]
    for sent in (etag, f'"other", W/{etag}', "*"):
        answer = await client.get(url, headers={"if-none-match": sent})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
        assert "immutable" in answer.headers["cache-control"]
    assert (await client.get(url, headers={"if-none-match": '"other"'})).status_code == 200
    gone = await client.get(f"/v1/files/{'0' * 31}f", headers={"if-none-match": "*"})
    assert gone.status_code == 404


@pytest.mark.parametrize(
    "sent",
    ["0-0", "0-9", "10-", "-10", "99-99", "99-500", "-500", "0-99", "0-", "-1", " 5 - 7 "],
)
async def test_a_range_is_as_starlette_answers_it(
    client: httpx.AsyncClient, url: str, sent: str, tmp_path: Path
):
    (tmp_path / "file").write_bytes(DATA)
    transport = httpx.ASGITransport(app=FileResponse(tmp_path / "file"))
    asked = {"range": f"bytes={sent}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as reference:
        expected = await reference.get("/", headers=asked)
    answer = await client.get(url, headers=asked)
    if sent.strip() in ("0-", "0-99", "-500"):  # all of it: starlette says so with a 200
        assert answer.content == expected.content == DATA
        return
    assert (answer.status_code, answer.content) == (206, expected.content)
    for name in ("content-range", "content-length", "accept-ranges"):
        assert answer.headers[name] == expected.headers[name]


@pytest.mark.parametrize("sent", ["bytes=0-1,5-6", "pixels=0-1", "bytes=9-1", "bytes=-", "bytes=x"])
async def test_any_other_range_is_the_whole(client: httpx.AsyncClient, url: str, sent: str):
    answer = await client.get(url, headers={"range": sent})
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("sent", ["bytes=100-", "bytes=100-101", "bytes=-0", "bytes=5000-"])
async def test_a_range_behind_the_end(client: httpx.AsyncClient, url: str, sent: str):
    answer = await client.get(url, headers={"range": sent})
    assert answer.status_code == 416
    assert answer.json()["error"]["code"] == "range_not_satisfiable"
    assert answer.headers["content-range"] == "bytes */100"


async def test_a_range_of_another_file_is_the_whole(client: httpx.AsyncClient, url: str):
    asked = {"range": "bytes=0-1"}
    etag = (await client.get(url)).headers["etag"]
    same = await client.get(url, headers={**asked, "if-range": etag})
    assert (same.status_code, same.content) == (206, DATA[:2])
    for validator in ('"other"', f"W/{etag}", "Wed, 21 Oct 2026 07:28:00 GMT"):
        other = await client.get(url, headers={**asked, "if-range": validator})
        assert (other.status_code, other.content) == (200, DATA)
