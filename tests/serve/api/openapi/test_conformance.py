"""schemathesis: requests that the document allows, and such that it does not, with all its checks.

Deterministic: the same requests for everybody. Two documents are tried. The product's own, on all
routes; and one that says the same without other tools' names for fields, because requests that have
every field at once, as schemathesis likes them, contradict themselves where each has ten names.
"""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.schemas import OpenApiSchema

from serve.api.schemas import ImageGenerationRequest
from serve.http import create_app
from serve.jobs.store.sqlite import SqliteStore
from tests.serve.api.openapi.kept_jobs import FOLDER
from tests.serve.fakes import PIXELS, FakeGraph, services

_CHECKS: dict[str, Any] = {
    # A schema cannot say which ids there are, how large the file of an id is, which keys have come
    # before, and which fields contradict each other; `only_contradictions_are_refused` looks at the
    # last.
    "positive_data_acceptance": {"expected-statuses": ["2XX", "304", "400", "404", "409", "416"]},
}
_CONTRADICTION = re.compile(
    r"contradicts|needs (?:width|height) beside it|cannot stand beside|has no size with sides"
    r"|step_cuts: \[\d+, \d+\] does not follow"
    r"|must be 1:3 to 3:1"
    r"|pixels in all, got|'custom' needs width and height|must be one integer, as image i"
    r"|min_steps: must be 1 to \d+, got|seed: must be 0 to \d+, or -1 for a random one, got"
    r"|prompt: (?:--|unknown|describe|\[)|required, and it is missing|is nested too deeply"
    r"|Idempotency-Key: too short for a request that names no user"
    r"|is no picture|must be a file, a data URL|is a data URL that is damaged|fetches no pictures"
    r"|needs an image beside it|does not do that|no ControlNet is served|pictures, and a model that"
    r"|adds nothing|draws from words alone|needs a picture to edit|--no says nothing|needed by the"
    r"|the parenthesis at position|has the weight|parentheses inside each other"
    r"|an image alone|starts from noise alone|leave (?:min_steps|step_cuts|skip_steps) out"
)
"""What a schema of single fields cannot say; all else that a document allows must be taken."""


def config(*, coverage: bool) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"max-examples": 20, "deterministic": True, "database": "none"},
            # Each value of each of a hundred names, in objects in objects, takes minutes.
            "phases": {"coverage": {"enabled": coverage}, "examples": {"enabled": coverage}},
            "checks": _CHECKS,
        }
    )


GRAPH = FakeGraph()
GRAPH.store.put(PIXELS, "image/png")
STORE = SqliteStore(Path(FOLDER.name) / "conformance.sqlite3", ttl_s=1000.0)
APP = create_app(services(GRAPH, tracing={"max_spans": 20}, job_store=STORE))
"""Begins and ends with each request, as schemathesis has it; then its jobs go on with the next."""


def without_foreign_names(document: dict[str, Any]) -> dict[str, Any]:
    """The routes of generations alone, in JSON, with our own names for fields."""
    plain = deepcopy(document)
    for body in plain["components"]["schemas"].values():
        if body.pop("dependentRequired", None) is not None:
            body["properties"] = {
                name: field
                for name, field in body["properties"].items()
                if name in ImageGenerationRequest.model_fields
            }
    plain["paths"] = {
        path: item
        for path, item in plain["paths"].items()
        # A variation has the fields of an edit.
        if path.startswith("/v1/images") and not path.endswith("/variations")
    }
    for item in plain["paths"].values():
        item["post"]["requestBody"]["content"].pop("multipart/form-data", None)
    return plain


def only_contradictions_are_refused(
    ctx: schemathesis.CheckContext, response: Response, case: schemathesis.Case
) -> None:
    """Fails for a 400 to what the document allows, if a schema could have said why."""
    meta = case.meta
    if response.status_code != 400 or meta is None or not meta.generation.mode.is_positive:
        return
    message: str = response.json()["error"]["message"]
    if _CONTRADICTION.search(message) is None:
        raise Failure(operation=case.operation.label, title="Refused, but allowed", message=message)


def schema_of(document: dict[str, Any], *, coverage: bool) -> OpenApiSchema:
    schema = schemathesis.openapi.from_dict(document, config=config(coverage=coverage))
    schema.app = APP
    return schema


DOCUMENT = APP.openapi()
# Bodies of jobs, in whatever dialect, are a generation's.
other_routes = (
    schema_of(DOCUMENT, coverage=True)
    .exclude(path_regex="^/v1/images/")
    .exclude(path_regex="^/v1/jobs$|^/hf/|^/fal/|predictions$", method="POST")
)
own_words = schema_of(without_foreign_names(DOCUMENT), coverage=True)
all_words = schema_of(DOCUMENT, coverage=False).include(
    path_regex="^/v1/(images/|jobs$)", method="POST"
)


@other_routes.parametrize()
def test_whatever_is_not_a_generation(case: schemathesis.Case):
    case.call_and_validate()


@own_words.parametrize()
def test_generations_in_our_own_words(case: schemathesis.Case):
    case.call_and_validate(additional_checks=[only_contradictions_are_refused])


@all_words.parametrize()
def test_generations_in_all_words(case: schemathesis.Case):
    case.call_and_validate(additional_checks=[only_contradictions_are_refused])
