"""The document as tests read it: each documented answer, and what does not conform to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
from jsonschema import Draft202012Validator

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")

UNDOCUMENTED_HEADERS = {"content-length", "content-type"}


class Documented(NamedTuple):
    """One answer of an operation: its status, and there the code of an error or a media type; ""
    for one without a body."""

    method: str
    path: str
    status: int
    kind: str

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} {self.status} {self.kind}".rstrip()


def documented(document: Mapping[str, Any]) -> Iterator[Documented]:
    """Every answer of every operation."""
    for path, item in document["paths"].items():
        for method in METHODS:
            for status, response in item.get(method, {}).get("responses", {}).items():
                for kind in _kinds(response):
                    yield Documented(method, path, int(status), kind)


def _kinds(response: Mapping[str, Any]) -> list[str]:
    content = response.get("content") or {"": {}}
    error = content.get("application/json", {}).get("schema", {}).get("allOf")
    if error is None:
        return list(content)
    return error[1]["properties"]["error"]["properties"]["code"]["enum"]


def check_answer(document: Mapping[str, Any], where: Documented, answer: httpx.Response) -> None:
    """Fails where `answer` is not as the document has it: status, headers, type, body."""
    assert answer.status_code == where.status, answer.text
    response = document["paths"][where.path][where.method]["responses"][str(where.status)]
    headers = {
        name: _resolved(document, header) for name, header in response.get("headers", {}).items()
    }
    for name, header in headers.items():
        assert not header.get("required") or name in answer.headers, name
    assert set(answer.headers) <= {*headers, *UNDOCUMENTED_HEADERS}
    for name in headers.keys() & answer.headers.keys():
        value: object = answer.headers[name]
        if headers[name]["schema"].get("type") == "integer":
            value = int(answer.headers[name])
        _check(document, headers[name]["schema"], value)
    content = response.get("content", {})
    if not content:
        assert answer.content == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in content
    if media_type != "application/json":
        assert media_type == where.kind
        return
    _check(document, content[media_type]["schema"], answer.json())
    error = answer.json().get("error") or {}
    assert where.kind in (media_type, error.get("code"))


def _check(document: Mapping[str, Any], schema: Mapping[str, Any], value: object) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def _resolved(document: Mapping[str, Any], header: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = header.get("$ref")
    if reference is None:
        return header
    return document["components"]["headers"][reference.rpartition("/")[2]]
