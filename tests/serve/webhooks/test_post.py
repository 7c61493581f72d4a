"""One attempt, over TLS to a real receiver: which address and name, and how much of the answer."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from serve.webhooks import post
from serve.webhooks.checked_addresses import Resolve, SystemResolver
from serve.webhooks.post import NotSent, WebhookPost, retry_after_s
from serve.webhooks.target import Target
from tests.serve.webhooks.receiver import Authority, Receiver, receiving, status

HOST = "hooks.example.com"
HEADERS = {"webhook-id": "msg_1"}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def resolving(*answers: Sequence[str]) -> Resolve:
    """A resolver that says something else each time, and fails when asked once too often."""
    left = list(answers)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return left.pop(0)

    return resolve


def post_to(
    authority: Authority,
    *answers: Sequence[str],
    allow_private: bool = True,
    timeout_s: float = 20.0,
) -> WebhookPost:
    return WebhookPost(
        timeout_s=timeout_s,
        allow_private=allow_private,
        resolve=resolving(*(answers or (["127.0.0.1"],))),
        context=authority.trusting(),
    )


def url_of(receiver: Receiver, path: str = "/hook?x=1") -> Target:
    return Target.parse(f"https://{HOST}:{receiver.port}{path}")


async def test_the_checked_address_under_its_own_name(authority: Authority, receiver: Receiver):
    answer = await post_to(authority).send(url_of(receiver), HEADERS, b'{"a":1}')
    assert (answer.status, answer.is_ok) == (204, True)
    [message] = receiver.received
    assert message.path == "/hook?x=1"
    assert message.body == b'{"a":1}'
    assert message.headers["host"] == f"{HOST}:{receiver.port}"
    assert message.headers["webhook-id"] == "msg_1"
    assert receiver.server_names == [HOST]


async def test_nothing_is_resolved_twice(
    authority: Authority, receiver: Receiver, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    def resolved(*_: Any, **__: Any) -> Any:
        raise AssertionError("the system's resolver was asked behind the check")

    with receiving(certificate, host="127.0.0.2", port=receiver.port) as elsewhere:
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        # A name that is rebound between two looks at it: there is but one look.
        post = post_to(authority, ["127.0.0.1"], ["127.0.0.2"])
        await post.send(url_of(receiver), HEADERS, b"{}")
        assert (len(receiver.received), len(elsewhere.received)) == (1, 0)
        await post.send(url_of(receiver), HEADERS, b"{}")
        assert (len(receiver.received), len(elsewhere.received)) == (1, 1)


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (["169.254.169.254"], "169.254.169.254 is link-local"),
        (["fd00:ec2::254"], "Amazon"),
        (["127.0.0.1"], "127.0.0.1 is loopback"),
        (["::ffff:127.0.0.1"], "127.0.0.1 is loopback"),
        (["8.8.8.8", "10.0.0.1"], "10.0.0.1 is not public"),
        (["fe80::1%eth0"], "one link"),
        (["nonsense"], "cannot be resolved"),
        ([], "has no address"),
    ],
)
async def test_what_a_name_may_not_stand_for(
    authority: Authority, receiver: Receiver, addresses: Sequence[str], says: str
):
    post = post_to(authority, addresses, allow_private=False)
    with pytest.raises(NotSent, match=HOST) as caught:
        await post.send(url_of(receiver), HEADERS, b"{}")
    assert says in str(caught.value)
    assert receiver.received == []


async def test_a_name_that_was_public_and_is_private_now(authority: Authority, receiver: Receiver):
    post = post_to(authority, ["127.0.0.1"], ["169.254.169.254"])
    assert (await post.send(url_of(receiver), HEADERS, b"{}")).is_ok
    with pytest.raises(NotSent, match="link-local"):
        await post.send(url_of(receiver), HEADERS, b"{}")


async def test_a_redirect_is_an_answer_and_nothing_else(authority: Authority, receiver: Receiver):
    with receiving() as inside:
        receiver.answers.append(
            status(307, location=f"http://127.0.0.1:{inside.port}/latest/meta-data/")
        )
        answer = await post_to(authority).send(url_of(receiver), HEADERS, b"{}")
        assert (answer.status, answer.is_ok) == (307, False)
        assert inside.received == []


async def test_a_certificate_of_another_name(authority: Authority):
    with receiving(authority.issue("other.example.com")) as receiver:
        with pytest.raises(NotSent, match=r"cannot connect: .*(certificate|CERTIFICATE)"):
            await post_to(authority).send(url_of(receiver), HEADERS, b"{}")
        assert receiver.received == []


async def test_a_certificate_that_nobody_vouches_for(receiver: Receiver, tmp_path: Path):
    other = Authority.in_folder(tmp_path)
    with pytest.raises(NotSent, match=r"cannot connect: .*(certificate|CERTIFICATE)"):
        await post_to(other).send(url_of(receiver), HEADERS, b"{}")


async def test_the_next_address_where_nothing_listens_at_the_first(
    authority: Authority, receiver: Receiver
):
    post = post_to(authority, ["127.0.0.3", "127.0.0.1"])
    assert (await post.send(url_of(receiver), HEADERS, b"{}")).is_ok


async def test_nobody_there(authority: Authority, certificate: Path):
    with receiving(certificate) as receiver:
        url = url_of(receiver)
    with pytest.raises(NotSent, match="cannot connect"):
        await post_to(authority).send(url, HEADERS, b"{}")


async def test_an_endless_answer_is_not_read(
    authority: Authority, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """However quickly it comes: by its bytes, and not by the time that it takes."""
    monkeypatch.setattr(post, "_ANSWER_S", None)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        while True:  # until the client has closed
            handler.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    receiver.answers.append(endless)
    assert (await post_to(authority).send(url_of(receiver), HEADERS, b"{}")).status == 200


async def test_a_body_that_never_comes_changes_nothing(authority: Authority, receiver: Receiver):
    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(202)
        handler.send_header("content-length", "100")
        handler.end_headers()
        receiver.closing.wait(30)

    receiver.answers.append(slow)
    assert (await post_to(authority).send(url_of(receiver), HEADERS, b"{}")).status == 202


async def test_no_answer_in_time(authority: Authority, receiver: Receiver):
    receiver.answers.append(lambda _: receiver.closing.wait(30))
    with pytest.raises(NotSent, match=r"no answer within 0\.5 s"):
        await post_to(authority, timeout_s=0.5).send(url_of(receiver), HEADERS, b"{}")


async def test_an_answer_that_is_no_http(authority: Authority, receiver: Receiver):
    receiver.answers.append(lambda handler: handler.wfile.write(b"220 smtp\r\n\r\n"))
    with pytest.raises(NotSent, match="the connection failed"):
        await post_to(authority).send(url_of(receiver), HEADERS, b"{}")


async def test_no_proxy_of_the_environment(
    authority: Authority, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    with receiving() as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post_to(authority).send(url_of(receiver), HEADERS, b"{}")).is_ok


async def test_an_address_needs_no_resolver(authority: Authority):
    with receiving() as receiver:
        target = Target.parse(f"http://127.0.0.1:{receiver.port}/x")
        post = WebhookPost(timeout_s=20.0, allow_private=True, resolve=resolving())
        assert (await post.send(target, HEADERS, b"{}")).is_ok
        assert receiver.received[0].headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_the_systems_resolver():
    assert set(await SystemResolver()("localhost", 443)) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("9" * 400, 999_999_999_999.0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Fri, 02 Jan 2026 03:05:05", 60.0),
        ("Thu, 01 Jan 2026 03:04:05 GMT", 0.0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None):
    assert retry_after_s(header, NOW) == seconds
