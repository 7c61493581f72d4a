"""Reads a request's body as one JSON object, and refuses everything that is not clearly one.

Stricter than the framework: no duplicate keys (which of the two was meant?), and neither nesting
nor digits without end can raise anything but `InvalidRequest`. Knows no field names.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pipelines.errors import InvalidRequest
from serve.api.disconnect import ClientGone

_MAX_EXACT = 2.0**53
"""Beyond it a float may be another integer than the one that was written."""


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a dict.

    Raises HTTPException 415 for another content type, InvalidRequest for anything that is not a
    JSON object in UTF-8, RequestTooLarge (from the body limit) for too many bytes, ClientGone for a
    body that ends before its end.
    """
    check_json(request)
    return parse_json_object(await whole_body(request))


def check_json(request: Request) -> None:
    """Raises HTTPException 415 for another content type."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        sent = f"'{media_type}'" if media_type else "no content type"
        raise HTTPException(415, f"content-type: must be 'application/json', got {sent}")


async def whole_body(request: Request) -> bytes:
    """The body's bytes. Raises ClientGone for one that ends before its end, InvalidRequest for one
    that the HTTP server has dropped, RequestTooLarge."""
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise ClientGone from error
    if not body and "upgrade" in request.headers:
        raise InvalidRequest(
            "the body did not arrive: the HTTP server drops it where a request asks for another"
            " protocol; send it without the header `upgrade` (in Java: version(HTTP_1_1))"
        )
    return body


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object, a byte order mark before it or not (RFC 8259, section 8.1).

    Raises InvalidRequest with the place of the mistake.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_float=_number
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not JSON: {error.msg} ({where})") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except InvalidRequest:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidRequest("the body holds a number with too many digits") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, got {_json_type(value)}")
    return cast("dict[str, Any]", value)


def _number(text: str) -> int | float:
    """JSON has one kind of numbers: `7.0` and `7e0` are the integer 7, as in JSON Schema."""
    value = float(text)
    return int(value) if abs(value) <= _MAX_EXACT and value.is_integer() else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidRequest(f"{key[:80]}: given twice in the same object", param=key[:80])
        found[key] = value
    return found


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"
