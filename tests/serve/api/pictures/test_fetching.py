"""Pictures behind URLs: only where an operator allows it, by the rules of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipelines.errors import InvalidRequest, UnsupportedFeature
from serve.api.pictures.fetching import MAX_REDIRECTS, PictureFetcher
from serve.settings.pictures import PicturesConfig
from tests.serve.api.pictures.conftest import served
from tests.serve.api.pictures.samples import picture
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph

PICTURE = picture(128, 64)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s"


@dataclass
class Site:
    """Answers each path with the bytes it is given, and remembers who asked for what."""

    answers: dict[str, bytes] = field(default_factory=dict)
    hangs: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *headers = head.split("\r\n")
        host = next(each.partition(": ")[2] for each in headers if each.lower().startswith("host"))
        path = line.split(" ")[1]
        self.asked.append((host, path))
        if self.hangs:
            await asyncio.sleep(60)
        writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))
        await writer.drain()
        writer.close()

    def url(self, path: str = "/a.png", host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def leads(self, path: str, to: str, status: int = 302) -> None:
        head = f"HTTP/1.1 {status} X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        self.answers[path] = head.encode()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site({"/a.png": OK % (len(PICTURE), PICTURE)})
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


def fetcher(site: Site, *addresses: str, hosts: Sequence[str] = ("pictures.test",), **more: Any):
    allow = tuple(f"http://{host}:{site.port}" for host in hosts)
    config = PicturesConfig(**{"allow": allow, "allow_private": True, "timeout_s": 5, **more})

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses or ("127.0.0.1",)

    return PictureFetcher(config, resolve=resolve)


async def refusal(given: PictureFetcher, url: str, name: str = "image[1]") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await given.fetch(url, name=name)
    assert caught.value.param == "image"
    assert caught.value.message.startswith(f"{name}: ")
    return caught.value


async def test_a_picture_of_an_allowed_origin(site: Site):
    assert await fetcher(site).fetch(site.url(), name="image") == PICTURE
    assert site.asked == [(f"pictures.test:{site.port}", "/a.png")]


async def test_nothing_is_allowed_unless_it_is_written(site: Site):
    error = await refusal(PictureFetcher(PicturesConfig()), site.url())
    assert isinstance(error, UnsupportedFeature)
    assert "`pictures.allow`" in error.message
    for url in (
        site.url(host="other.test"),
        site.url(host="127.0.0.1"),
        f"https://pictures.test:{site.port}/a.png",
        "http://pictures.test/a.png",
    ):
        assert "is not allowed here" in (await refusal(fetcher(site), url)).message
    assert "credentials" in (await refusal(fetcher(site), site.url(host="a@pictures.test"))).message
    assert site.asked == []


@pytest.mark.parametrize(
    ("addresses", "more", "said"),
    [
        (["169.254.169.254"], {}, "link-local"),
        (["127.0.0.1"], {"allow_private": False}, "loopback"),
        (["10.0.0.1"], {"allow_private": False}, "not public"),
        (["127.0.0.1", "169.254.169.254"], {}, "link-local"),
        (["::ffff:169.254.169.254"], {}, "link-local"),
    ],
)
async def test_where_a_name_may_not_lead(
    site: Site, addresses: list[str], more: dict[str, Any], said: str
):
    error = await refusal(fetcher(site, *addresses, **more), site.url())
    assert "may not be reached" in error.message
    assert said in error.message
    assert site.asked == []


async def test_a_redirect_within_what_is_allowed(site: Site):
    given = fetcher(site, hosts=("pictures.test", "cdn.test"))
    site.leads("/b", "/c", 301)
    site.leads("/c", site.url("/a.png", "cdn.test"), 307)
    assert await given.fetch(site.url("/b"), name="image") == PICTURE
    assert [host.partition(":")[0] for host, _ in site.asked] == [
        "pictures.test",
        "pictures.test",
        "cdn.test",
    ]


@pytest.mark.parametrize(
    "to", ["http://other.test/a", "http://169.254.169.254/", "file:///etc/passwd", "//other.test/a"]
)
async def test_a_redirect_elsewhere(site: Site, to: str):
    site.leads("/b", to)
    await refusal(fetcher(site), site.url("/b"))
    assert len(site.asked) == 1


async def test_redirects_end(site: Site):
    site.leads("/b", "/b")
    assert "redirected more than 3 times" in (await refusal(fetcher(site), site.url("/b"))).message
    assert len(site.asked) == 1 + MAX_REDIRECTS


async def test_bytes_are_bounded(site: Site):
    big = bytes(5000)
    site.answers |= {
        "/told": OK % (len(big), big),
        "/untold": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + big,
    }
    for path in ("/told", "/untold"):
        error = await refusal(fetcher(site, max_bytes=4999), site.url(path))
        assert "more than 4999 bytes" in error.message
        assert await fetcher(site, max_bytes=5000).fetch(site.url(path), name="image") == big


async def test_time_is_bounded(site: Site):
    site.hangs = True
    error = await refusal(fetcher(site, timeout_s=0.1), site.url())
    assert "did not come within 0.1 s" in error.message


async def test_other_answers(site: Site):
    assert "answered 404, and no picture" in (await refusal(fetcher(site), site.url("/x"))).message
    site.answers["/half"] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    assert "connection failed" in (await refusal(fetcher(site), site.url("/half"))).message
    site.port = 1
    assert "cannot connect" in (await refusal(fetcher(site), site.url())).message


async def test_over_http(client_of: ClientOf, graph: FakeGraph, site: Site):
    given = served(graph)
    given.pictures = fetcher(site)
    answer = await client_of(given).post(
        "/v1/images/edits", json={"prompt": "x", "images": [{"image_url": site.url()}]}
    )
    assert answer.status_code == 200, answer.text
    source = graph.jobs[0].recipes[0].source
    assert source is not None
    assert source.data == PICTURE
