"""The OpenAPI document: FastAPI's, without what is never answered, and with what holds here now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from serve.api.openapi.failures import ERROR_SCHEMA, HEADERS, error_schema, header_refs
from serve.api.openapi.generation_fields import generation_schemas
from serve.api.openapi.vendor_failures import VENDOR_ERRORS
from serve.api.services import Services
from serve.settings.settings import Settings

Schema = dict[str, Any]

_FOREIGN_ERRORS = ("HTTPValidationError", "ValidationError")
"""FastAPI's shapes for a 422, which `serve.errors` answers with a 400 of ours."""

_ON_EVERY_ANSWER = ("x-request-id",)
_ON_ANSWERS_TO_POST = ("x-trace-id", "traceresponse")


class DescribedApi(FastAPI):
    """FastAPI whose document is of the settings in force, which may change while it runs.

    `state.services` must be set before it is asked for.
    """

    _described: tuple[Settings, Schema] | None = None

    def openapi(self) -> Schema:
        services: Services = self.state.services
        if self._described is None or self._described[0] is not services.settings:
            self._described = (services.settings, described(super().openapi(), services))
        return self._described[1]


def described(generated: Mapping[str, Any], services: Services) -> Schema:
    """What FastAPI has `generated` for this application, made true."""
    document: Schema = deepcopy(dict(generated))
    for _, operation in _operations(document):
        responses: Schema = operation["responses"]
        if str(responses.get("422")).count(_FOREIGN_ERRORS[0]):
            del responses["422"]
    components: Schema = document.setdefault("components", {})
    schemas: Schema = components.setdefault("schemas", {})
    for name in _FOREIGN_ERRORS:
        schemas.pop(name, None)
    schemas[ERROR_SCHEMA] = error_schema()
    for name, words in VENDOR_ERRORS.items():
        schemas[name] = error_schema(words)
    schemas |= generation_schemas(services)
    components["headers"] = deepcopy(dict(HEADERS))
    for method, operation in _operations(document):
        names = [*_ON_EVERY_ANSWER, *(_ON_ANSWERS_TO_POST if method == "post" else ())]
        for response in operation["responses"].values():
            response["headers"] = {**header_refs(*names), **response.get("headers", {})}
    for item in document["paths"].values():
        if "get" in item:
            item["head"] = _head(item["get"])
    return document


def _operations(document: Schema) -> Iterator[tuple[str, Schema]]:
    for item in document["paths"].values():
        yield from item.items()


def _head(get: Mapping[str, Any]) -> Schema:
    """HEAD of what can be got: the same without bodies (`middleware/head.py`)."""
    head: Schema = deepcopy(dict(get))
    head["operationId"] += "_head"
    for response in head["responses"].values():
        response.pop("content", None)
    return head
