from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve.proxy import middleware, readable

HEADER = b"x-request-id"


def ids(*given: bytes) -> list[bytes]:
    return [value for _, value in readable([(HEADER, value) for value in given])]


def test_a_sane_id_stays():
    assert ids(b"trace:1/a.b") == [b"trace:1/a.b"]


@pytest.mark.parametrize(
    "given", [(), (b"",), (b"two words",), (b"x" * 129,), (b"caf\xe9",), (b"a", b"b")]
)
def test_any_other_is_replaced_by_one_new_one(given: tuple[bytes, ...]):
    (request_id,) = ids(*given)
    assert request_id.startswith(b"req-")


def test_values_are_readable_as_utf_8_and_in_their_order():
    headers = [(b"a", b"caf\xe9"), (b"b", "caf\xe9".encode()), (b"a", b"plain"), (HEADER, b"x")]
    assert readable(headers) == [
        (b"a", "caf\xe9".encode()),
        (b"b", "caf\xe9".encode()),
        (b"a", b"plain"),
        (HEADER, b"x"),
    ]


async def test_around_a_proxy():
    seen: list[Scope] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    (only,) = middleware()
    app = only.cls(proxy, *only.args, **only.kwargs)
    scope: Scope = {"type": "http", "headers": [(HEADER, b"caf\xe9")]}
    await app(scope, receive, send)
    await app({"type": "lifespan"}, receive, send)
    assert scope["headers"] == [(HEADER, b"caf\xe9")]
    assert seen[0]["headers"][0][1].startswith(b"req-")
    assert seen[1] == {"type": "lifespan"}
