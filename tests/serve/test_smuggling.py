"""Requests of which two readers may see different ends: Serve's proxy refuses each or reads it as
one, so that no other is found inside of it, which a balancer in front of it might not have seen."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import parse_headers
from typing import NamedTuple

import httpx
import pytest

from tests.cluster import PATIENCE_S
from tests.serve.woken import Woken

pytestmark = pytest.mark.cluster

IMAGES = "/v1/images/generations"
BODY = {"prompt": "a red circle on a white background", "seed": 11}
INSIDE = b"GET /served/v1/models HTTP/1.1\r\nhost: here\r\nx-request-id: inside\r\n\r\n"
AFTER = (
    b"GET /served/healthz HTTP/1.1\r\nhost: here\r\nx-request-id: after\r\n"
    b"connection: close\r\n\r\n"
)
POST = "POST /served/v1/images/preflight HTTP/1.1"
GET = "GET /served/healthz HTTP/1.1"
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INSIDE), INSIDE)
ALL = f"content-length: {len(INSIDE)}"
"""The request inside is the whole body."""
JSON = "content-type: application/json"
CHUNKED = "transfer-encoding: chunked"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request whose length can be read in several ways, with another inside of its body."""

    head: tuple[str, ...]
    body: bytes
    line: str = POST

    def sent(self) -> bytes:
        """As bytes, with an honest request after it, the last of its connection."""
        lines = (self.line, "host: here", "x-request-id: outer", JSON, *self.head, "", "")
        return "\r\n".join(lines).encode("latin-1") + self.body + AFTER


EMPTY_THEN_INSIDE = b"0\r\n\r\n" + INSIDE
ATTEMPTS = {
    "CL.TE": Attempt((f"content-length: {5 + len(INSIDE)}", CHUNKED), EMPTY_THEN_INSIDE),
    "TE.CL": Attempt((CHUNKED, "content-length: 4"), CHUNK),
    "TE.CL, all": Attempt((CHUNKED, f"content-length: {len(CHUNK)}"), CHUNK),
    "two lengths": Attempt(("content-length: 0", ALL), INSIDE),
    "two lengths in a list": Attempt((f"content-length: 0, {len(INSIDE)}",), INSIDE),
    "one length twice": Attempt((ALL, ALL), INSIDE),
    "length with a sign": Attempt((f"content-length: +{len(INSIDE)}",), INSIDE),
    "negative length": Attempt((f"content-length: -{len(INSIDE)}",), INSIDE),
    "length in hexadecimal": Attempt((f"content-length: {len(INSIDE):#x}",), INSIDE),
    "length past 64 bits": Attempt((f"content-length: {2**64 + len(INSIDE)}",), INSIDE),
    "length behind a space": Attempt((f"content-length : {len(INSIDE)}",), INSIDE),
    "length on a folded line": Attempt((f"content-length:\r\n {len(INSIDE)}",), INSIDE),
    "coding on a folded line": Attempt((ALL, "transfer-encoding:\r\n chunked"), INSIDE),
    "coding folded into another": Attempt(
        (ALL, "x-fold: a\r\n transfer-encoding: chunked"), INSIDE
    ),
    "coding behind a bare LF": Attempt((f"x: y\n{CHUNKED}", ALL), EMPTY_THEN_INSIDE),
    "coding behind a bare CR": Attempt((f"x: y\r{CHUNKED}", ALL), EMPTY_THEN_INSIDE),
    "coding behind a space": Attempt(("transfer-encoding : chunked", ALL), EMPTY_THEN_INSIDE),
    "coding behind a NUL": Attempt(("transfer-encoding: \0chunked", ALL), EMPTY_THEN_INSIDE),
    "coding behind a tab": Attempt(("transfer-encoding:\x0bchunked", ALL), EMPTY_THEN_INSIDE),
    "unknown coding": Attempt(("transfer-encoding: xchunked", ALL), EMPTY_THEN_INSIDE),
    "chunked is not the last": Attempt(("transfer-encoding: chunked, identity",), CHUNK),
    "chunked twice": Attempt((CHUNKED, CHUNKED), CHUNK),
    "chunked, unknown": Attempt((CHUNKED, "transfer-encoding: cow"), CHUNK),
    "chunked in HTTP/1.0": Attempt((CHUNKED,), CHUNK, POST.replace("1.1", "1.0")),
    "lines end in bare LF": Attempt((f"x: y\ncontent-length: 0\n\n{INSIDE.decode()}", ALL), b""),
    "chunks with extensions": Attempt((CHUNKED,), CHUNK.replace(b"\r\n", b';a="0";b\r\n', 1)),
    "extension with a bare LF": Attempt(
        (CHUNKED,), b"2;\nxx\r\n%x\r\n0\r\n\r\n%s\r\n0\r\n\r\n" % (len(INSIDE) + 5, INSIDE)
    ),
    "chunk that is longer than it says": Attempt((CHUNKED,), b"2\r\n{}x\r\n0\r\n\r\n" + INSIDE),
    "chunk size past 64 bits": Attempt(
        (CHUNKED,), CHUNK.replace(b"%x" % len(INSIDE), b"1%016x" % len(INSIDE), 1)
    ),
    "chunk size with a prefix": Attempt((CHUNKED,), b"0x" + CHUNK),
    "chunk ends in bare LF": Attempt((CHUNKED,), CHUNK.replace(b"\r\n", b"\n", 1)),
    "trailers that are heads": Attempt(
        (CHUNKED,), b"2\r\n{}\r\n0\r\ncontent-length: 0\r\nhost: x\r\n\r\n"
    ),
    "body that nobody reads": Attempt((ALL,), INSIDE, GET),
    "body of a path that is not there": Attempt((ALL,), INSIDE, POST.replace("v1", "none")),
    "body that is announced": Attempt((ALL, "expect: 100-continue"), INSIDE),
    "two hosts": Attempt(("host: there", ALL), INSIDE),
}


class Answer(NamedTuple):
    """One answer of a connection."""

    status: int
    headers: Message
    body: bytes

    @property
    def id(self) -> str | None:
        """Of the request; none where the proxy refused to read one."""
        return self.headers["x-request-id"]


def answers(client: httpx.Client, sent: bytes) -> list[Answer]:
    """What the proxy says to these bytes until it closes the connection."""
    address = (client.base_url.host, client.base_url.port)
    received = b""
    # Who closes with bytes unread resets the connection.
    with socket.create_connection(address) as sender, contextlib.suppress(ConnectionError):
        sender.settimeout(PATIENCE_S)
        sender.sendall(sent)
        while more := sender.recv(2**16):
            received += more
    return [answer for answer in _parsed(received) if answer.status != 100]


def _parsed(received: bytes) -> Iterator[Answer]:
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, _, lines = head.partition(b"\r\n")
        headers = parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
        status = int(line.split()[1])
        without = 0 if status == 100 else len(rest)
        length = int(headers.get("content-length", without))
        yield Answer(status, headers, rest[:length])
        received = rest[length:]


@pytest.fixture
def client(woken: Woken) -> httpx.Client:
    return woken.client


def drawn(client: httpx.Client) -> str:
    answer = client.post(IMAGES, json=BODY)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["b64_json"]


@pytest.fixture(scope="module")
def picture(woken: Woken) -> str:
    return drawn(woken.client)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_request_is_found_inside_of_another(client: httpx.Client, picture: str, name: str):
    told = answers(client, ATTEMPTS[name].sent())
    if any(answer.id for answer in told):  # it was read as one
        assert [answer.id for answer in told] in (["outer"], ["outer", "after"]), told
    else:
        assert [answer.status for answer in told] in ([], [400]), told
    assert drawn(client) == picture


def test_a_body_in_chunks_with_extensions_is_that_of_its_request(client: httpx.Client):
    text = json.dumps(BODY).encode()
    parts = [text[:7], text[7:8], text[8:]]
    chunks = [b'%x;name="0";other\r\n%s\r\n' % (len(part), part) for part in parts]
    body = b"".join([*chunks, b"0;last\r\n\r\n"])
    outer, after = answers(client, Attempt((CHUNKED,), body).sent())
    assert (outer.id, outer.status, after.id, after.status) == ("outer", 200, "after", 200)
    assert json.loads(outer.body)["parameters"]["seed"] == BODY["seed"]


def test_requests_sent_at_once_get_their_own_answers_in_their_order(
    client: httpx.Client, picture: str
):
    """Though the first takes longest, and the one in the middle is refused."""
    text = json.dumps(BODY).encode()
    head = f"POST /served{{}} HTTP/1.1\r\nhost: here\r\n{JSON}\r\n"
    length = "x-request-id: {}\r\ncontent-length: {}\r\n\r\n"
    draws = (head.format(IMAGES) + length.format("draws", len(text))).encode() + text
    refused = (head.format(IMAGES) + length.format("refused", 2)).encode() + b"{}"
    told = answers(client, draws + INSIDE + refused + AFTER)
    assert [(answer.id, answer.status) for answer in told] == [
        ("draws", 200),
        ("inside", 200),
        ("refused", 400),
        ("after", 200),
    ]
    assert json.loads(told[0].body)["data"][0]["b64_json"] == picture
    assert json.loads(told[1].body)["data"][0]["object"] == "model"
    assert json.loads(told[2].body)["error"]["param"] == "prompt"
    assert json.loads(told[3].body)["status"] == "alive"
