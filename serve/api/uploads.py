"""A file in a request's body: as the whole of it, or as a field of a form.

What comes is bounded by the body limit of the route; it is bytes here, and nothing looks into it.
"""

from __future__ import annotations

from email.message import Message
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pipelines.errors import InvalidRequest
from serve.errors import ClientGone

FIELD = "file"
"""Of the form that has the file."""

MAX_FIELDS = 64
_MAX_HEAD_BYTES = 8192
_MAX_BOUNDARY_CHARS = 70


class FormPart(NamedTuple):
    """One field of a form. A file has a file name, which is nobody's business here."""

    name: str | None
    is_file: bool
    data: bytes


async def read_file(request: Request) -> bytes:
    """The file's bytes: the body of an `image/*`, or the field `file` of a `multipart/form-data`.

    Raises HTTPException 415 for another content type, InvalidRequest for a form without the file,
    RequestTooLarge (from the body limit), ClientGone.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    if not is_form and not media_type.startswith("image/"):
        sent = f"'{media_type[:80]}'" if media_type else "no content type"
        raise HTTPException(
            415, f"content-type: must be 'image/...' or 'multipart/form-data', got {sent}"
        )
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise ClientGone from error
    if not is_form:
        return body
    return await run_in_threadpool(file_in_form, body, content_type)


def file_in_form(body: bytes, content_type: str) -> bytes:
    """The content of the field `file`. Raises InvalidRequest."""
    files = [part.data for part in form_parts(body, content_type) if part.name == FIELD]
    if len(files) != 1:
        raise InvalidRequest(
            f"{FIELD}: the form must have one field of this name, got {len(files)}", param=FIELD
        )
    return files[0]


def form_parts(body: bytes, content_type: str, *, most: int = MAX_FIELDS) -> list[FormPart]:
    """The fields of a `multipart/form-data`, in order (RFC 7578). Raises InvalidRequest, also for
    more than `most`."""
    delimiter = b"--" + _boundary(content_type)
    parts: list[FormPart] = []
    at = body.find(delimiter)
    for _ in range(most + 1):
        after = at + len(delimiter)
        if at < 0:
            raise _malformed("it ends before its last boundary")
        if body[after : after + 2] == b"--":
            return parts
        head_end = body.find(b"\r\n\r\n", after, after + _MAX_HEAD_BYTES)
        if head_end < 0:
            raise _malformed(f"a field has no head within {_MAX_HEAD_BYTES} bytes")
        at = body.find(b"\r\n" + delimiter, head_end + 2)
        if at >= 0:
            name, is_file = _disposition(body[after:head_end])
            # `max`: of a field without content, whose end is the end of its head.
            data = body[head_end + 4 : max(at, head_end + 4)]
            parts.append(FormPart(name=name, is_file=is_file, data=data))
            at += 2
    raise _malformed(f"it has over {most} fields")


def _boundary(content_type: str) -> bytes:
    boundary = _parameter("content-type", content_type, "boundary")
    if not boundary or len(boundary) > _MAX_BOUNDARY_CHARS or not boundary.isascii():
        raise _malformed("content-type names no sound boundary")
    return boundary.encode("ascii")


def _disposition(head: bytes) -> tuple[str | None, bool]:
    """The field's name, by its content-disposition, and whether it is a file."""
    for line in head.decode("utf-8", "replace").splitlines():
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            name, filename = (
                _parameter(header.strip(), value, each) for each in ("name", "filename")
            )
            return name, filename is not None
    return None, False


def _parameter(header: str, value: str, name: str) -> str | None:
    message = Message()
    message[header] = value.strip()
    found = message.get_param(name, header=header)
    return found if isinstance(found, str) else None


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not multipart/form-data: {why}")
