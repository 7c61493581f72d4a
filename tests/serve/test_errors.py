"""The error table: complete, and in OpenAI's shape on every path."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from pipelines import errors
from serve.api.error_handlers import install_error_handlers
from serve.error_responses import error_response
from serve.errors import ERROR_TABLE
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

EXAMPLES: list[errors.SluiceError] = [
    errors.SluiceError("m"),
    errors.InvalidRequest("m", param="n"),
    errors.UnsupportedFeature("m", param="stream"),
    errors.RequestTooLarge("m"),
    errors.ModelNotFound("m", model="x"),
    errors.FileNotStored("m", file_id="x"),
    errors.TraceNotKept("m"),
    errors.JobNotFound("m"),
    errors.JobConflict("m"),
    errors.IdempotencyKeyReused("m"),
    errors.StoreUnavailable("m", retry_after_s=1.2),
    errors.DeliveryNotFound("m"),
    errors.ContentPolicyViolation(
        "m", stage="image", category="nsfw", score=0.9, threshold=0.8, image_index=2
    ),
    errors.DegenerateImage("m"),
    errors.Overloaded("m", retry_after_s=1.2),
    errors.DeadlineUnreachable("m", earliest_s=2.5),
    errors.NotReady("m"),
    errors.RequestTimeout("m"),
    errors.BodyTimeout("m"),
    errors.HeadersTooLarge("m"),
    errors.UriTooLong("m"),
    errors.StageFailed("m", stage="Denoiser"),
    errors.StageLost("m", stage="Denoiser"),
    errors.CheckpointError("m"),
    errors.ConfigurationError("m"),
]


def subclasses(base: type[errors.SluiceError]) -> Iterator[type[errors.SluiceError]]:
    yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def test_every_error_has_a_rule_and_every_rule_an_example():
    known = {cls for cls in subclasses(errors.SluiceError) if cls.__module__ == errors.__name__}
    assert set(ERROR_TABLE) == known
    assert {type(example) for example in EXAMPLES} == known


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_shape_of_every_error(error: errors.SluiceError):
    response = error_response(error)
    body = json.loads(bytes(response.body))["error"]
    rule = ERROR_TABLE[type(error)]
    assert response.status_code == rule.status
    # Where the store is, is the operator's to know.
    assert (body["message"] == "m") is not isinstance(error, errors.StoreUnavailable)
    assert (body["type"], body["code"]) == (rule.type, rule.code)
    assert body["param"] == getattr(error, "param", None)


def test_policy_violation_names_stage_category_score_and_threshold():
    error = errors.ContentPolicyViolation(
        "refused", stage="prompt", category="hate", score=1.0, threshold=1.0, param="prompt"
    )
    response = error_response(error)
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["error"] == {
        "message": "refused",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "content_policy_violation",
        "stage": "prompt",
        "category": "hate",
        "score": 1.0,
        "threshold": 1.0,
    }


def test_overload_says_when_to_come_back():
    headers = error_response(errors.Overloaded("full", retry_after_s=1.2)).headers
    assert headers["retry-after-ms"] == "1200"
    assert headers["retry-after"] == "2"
    assert headers["x-should-retry"] == "true"


def test_an_unreachable_deadline_says_the_shortest_and_when_to_come_back():
    error = errors.DeadlineUnreachable("too soon", earliest_s=2.0004, retry_after_s=0.25)
    response = error_response(error)
    assert json.loads(bytes(response.body))["error"]["earliest_deadline_ms"] == 2001
    assert response.headers["retry-after-ms"] == "250"
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-should-retry"] == "true"


def test_a_deadline_shorter_than_the_work_is_not_to_be_repeated():
    headers = error_response(errors.DeadlineUnreachable("never", earliest_s=2.0)).headers
    assert headers["x-should-retry"] == "false"
    assert not {"retry-after", "retry-after-ms"} & set(headers)


@pytest.mark.parametrize(
    "error", [errors.RequestTimeout("m"), errors.DegenerateImage("m"), errors.CheckpointError("m")]
)
def test_what_would_fail_again_is_not_to_be_repeated(error: errors.SluiceError):
    assert error_response(error).headers["x-should-retry"] == "false"


def test_a_surrogate_in_a_message_survives():
    response = error_response(errors.InvalidRequest("got '\ud800'", param="\ud800"))
    assert json.loads(bytes(response.body))["error"]["param"] == "\ud800"


async def test_unknown_route(client: httpx.AsyncClient):
    response = await client.get("/v1/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    assert "/v1/nothing" in response.json()["error"]["message"]
    assert response.headers["x-request-id"]


async def test_wrong_method(client: httpx.AsyncClient):
    response = await client.get("/v1/images/generations")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["code"] == "method_not_allowed"


async def test_unforeseen_error_is_a_500_that_says_nothing(client_of: ClientOf):
    client = client_of(services(FakeGraph(error=RuntimeError("secret path"))))
    response = await client.post(
        "/v1/images/generations", json={"prompt": "x"}, headers={"x-request-id": "abc"}
    )
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "abc"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.text


async def test_the_frameworks_own_validation_is_mapped():
    app = FastAPI(telemetry={"tracing": False})
    install_error_handlers(app)

    @app.get("/double/{number}")
    async def double(number: int) -> int:
        return 2 * number

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        response = await client.get("/double/three")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "number"
