from __future__ import annotations

import httpx
import pytest

from pipelines.errors import InvalidRequest
from serve.api.json_body import parse_json_object


def test_an_object():
    assert parse_json_object(b' {"a": [1, {"b": null}]} ') == {"a": [1, {"b": None}]}


def test_a_byte_order_mark_is_skipped():
    assert parse_json_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "line 1, column 2"),
        (b'{"prompt": "a"', "not JSON"),
        (b"{'prompt': 'a'}", "not JSON"),
        (b"[1]", "got an array"),
        (b"null", "got null"),
        (b"true", "got a boolean"),
        (b'"text"', "got a string"),
        (b"3.5", "got a number"),
        (b'{"prompt": "\xff"}', "not UTF-8 (byte 12)"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": 1}\xef\xbb\xbf', "not JSON"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "b: given twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "too many digits"),
    ],
)
def test_what_is_not_an_object(body: bytes, said: str):
    with pytest.raises(InvalidRequest, match=said.replace("(", r"\(").replace(")", r"\)")):
        parse_json_object(body)


async def test_a_body_that_was_lost_with_its_upgrade_is_said_to_be(client: httpx.AsyncClient):
    headers = {"content-type": "application/json", "upgrade": "h2c"}
    answer = await client.post("/v1/images/generations", headers=headers)
    assert answer.status_code == 400
    assert "without the header `upgrade`" in answer.json()["error"]["message"]
    answer = await client.post("/v1/images/generations", headers=headers, content=b"{}")
    assert answer.json()["error"]["param"] == "prompt"


def test_a_duplicate_names_its_key():
    with pytest.raises(InvalidRequest) as caught:
        parse_json_object(b'{"seed": 1, "seed": 2}')
    assert caught.value.param == "seed"
