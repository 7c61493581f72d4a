"""From the body of a request to its fields, in which `upload:` and a digest stands for each file.

So that everything after this reads plain JSON, small and comparable, however pictures came: as
files of a form, as data URLs in JSON, or as the body itself. Digests are SHA-256 of the bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipelines.errors import InvalidRequest
from serve.api.json_body import check_json, parse_json_object, whole_body
from serve.api.pictures.form import fields_of
from serve.api.uploads import form_parts

UPLOAD = "upload:"

_DATA_URL = re.compile(r"data:[a-z0-9.+/-]{0,80}(;[a-z0-9=._-]{1,80}){0,4};base64,", re.IGNORECASE)
_MAX_DEPTH = 12
_MAX_PARTS = 128
"""Fields of a form, files counted."""
_BLANKS = re.compile(rb"[\r\n\t ]")


class SentBody(NamedTuple):
    """Fields as JSON has them, and the files that they stand for."""

    fields: dict[str, Any]
    uploads: Mapping[str, bytes]


async def read_body(request: Request) -> SentBody:
    """The body, JSON or a `multipart/form-data`.

    Raises HTTPException 415 for another content type, InvalidRequest for a body that is malformed,
    RequestTooLarge (from the body limit), ClientGone.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ("application/json", "multipart/form-data"):
        sent = f"'{media_type[:80]}'" if media_type else "no content type"
        raise HTTPException(
            415, f"content-type: must be 'application/json' or 'multipart/form-data', got {sent}"
        )
    body = await whole_body(request)
    if media_type == "application/json":
        return await run_in_threadpool(_from_json, body)
    return await run_in_threadpool(_from_form, body, content_type)


async def read_json(request: Request) -> SentBody:
    """The same of a route that takes JSON alone. Raises as `read_body`."""
    check_json(request)
    return await run_in_threadpool(_from_json, await whole_body(request))


def upload_of(data: bytes, uploads: dict[str, bytes]) -> str:
    """What stands for `data`, which is kept in `uploads`."""
    name = f"{UPLOAD}{hashlib.sha256(data).hexdigest()}"
    uploads[name] = data
    return name


def lifted(fields: dict[str, Any]) -> SentBody:
    """`fields` with uploads in place of the data URLs in them; what is none stays as it is."""
    uploads: dict[str, bytes] = {}
    return SentBody(cast("dict[str, Any]", _lift(fields, uploads, 0)), uploads)


def _from_json(body: bytes) -> SentBody:
    return lifted(parse_json_object(body))


def _from_form(body: bytes, content_type: str) -> SentBody:
    uploads: dict[str, bytes] = {}
    named: list[tuple[str, object]] = []
    for part in form_parts(body, content_type, most=_MAX_PARTS):
        if part.name is None:
            raise InvalidRequest("the body is not multipart/form-data: a field has no name")
        named.append(
            (part.name, upload_of(part.data, uploads))
            if part.is_file
            else (part.name, _text(part.name, part.data))
        )
    fields, more = lifted(fields_of(named))
    return SentBody(fields, {**uploads, **more})


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name[:80]}: is not UTF-8 (byte {error.start}); send a file with a file name",
            param=name[:80],
        ) from error


def _lift(value: object, uploads: dict[str, bytes], depth: int) -> object:
    if isinstance(value, str):
        data = data_of_url(value)
        return value if data is None else upload_of(data, uploads)
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [_lift(each, uploads, depth + 1) for each in cast("list[object]", value)]
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return {name: _lift(each, uploads, depth + 1) for name, each in entries.items()}
    return value


def data_of_url(text: str) -> bytes | None:
    """The bytes that a data URL in base64 holds; None for any other text, also a damaged one."""
    begin = _DATA_URL.match(text) if text[:5].lower() == "data:" else None
    return None if begin is None else decoded(text[begin.end() :])


def decoded(text: str) -> bytes | None:
    """The bytes of base64, with line ends and without padding too; None for what is not."""
    try:
        raw = _BLANKS.sub(b"", text.encode("ascii"))
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True) or None
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
