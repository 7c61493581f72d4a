"""A generation as a stream of events: what becomes of its work, its place and its log."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from pipelines.contracts import GenerationResult
from pipelines.errors import ContentPolicyViolation, Overloaded, StageFailed
from pipelines.moderation import PromptRules
from serve.http import create_app
from tests.serve.api.asgi import Asked
from tests.serve.fakes import FakeGraph, services
from tests.serve.previewing_graph import PreviewingGraph

pytestmark = pytest.mark.timeout(30)

URL = "/v1/images/generations"
BODY: dict[str, Any] = {"prompt": "a cat", "user": "u-1", "stream": True, "partial_images": 2}

REFUSED = ContentPolicyViolation(
    "refused", stage="image", category="nsfw", score=0.9, threshold=0.8, image_index=0
)


async def test_it_comes_as_it_is_drawn():
    graph = PreviewingGraph(preview_steps=range(1, 12), hangs=True)
    asked = Asked(create_app(services(graph)), URL, BODY)
    status, headers = await asked.start()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    for index in range(2):
        event = await asked.event()
        assert event is not None
        assert event["event"] == event["data"]["type"] == "image_generation.partial_image"
        assert event["data"]["partial_image_index"] == index
        assert event["data"]["step"] == 4 * (index + 1)
        assert "id" not in event
    assert not asked.serving.done()
    graph.go.set()
    (completed,) = await asked.events()
    assert completed["event"] == completed["data"]["type"] == "image_generation.completed"
    await asked.serving


async def test_a_client_that_leaves_takes_its_work_along(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = PreviewingGraph(preview_steps=range(1, 12), hangs=True)
    given = services(graph)
    asked = Asked(create_app(given), URL, BODY)
    await asked.start()
    await asked.event()
    await graph.entered.acquire()
    assert given.generations.admission.in_flight == 1
    asked.leave()
    await asked.serving
    assert graph.cancelled == [graph.jobs[0].request_id]
    assert given.generations.admission.in_flight == 0
    assert "user='u-1' tenant='u-1' outcome=client_gone images=1" in caplog.text


async def test_so_does_one_that_leaves_before_the_first_event(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = FakeGraph(hangs=True)
    given = services(graph)
    asked = Asked(create_app(given), URL, BODY)
    await graph.entered.acquire()
    asked.serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked.serving
    assert len(graph.cancelled) == 1
    assert given.generations.admission.in_flight == 0
    assert "outcome=cancelled" in caplog.text


async def test_an_error_that_comes_as_the_client_leaves_is_no_news(
    caplog: pytest.LogCaptureFixture,
):
    class Fails(FakeGraph):
        async def generate(self, *arguments: Any, **options: Any) -> GenerationResult:
            try:
                return await super().generate(*arguments, **options)
            except asyncio.CancelledError:
                raise StageFailed("gone", stage="Denoiser") from None

    graph = Fails(hangs=True)
    asked = Asked(create_app(services(graph)), URL, BODY)
    await asked.start()
    await graph.entered.acquire()
    asked.leave()
    await asked.serving
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_one_that_takes_too_long_is_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = FakeGraph(hangs=True)
    asked = Asked(create_app(services(graph)), URL, BODY)
    await asked.start()
    await graph.entered.acquire()
    asked.expire()
    (last,) = await asked.events()
    assert last["data"]["error"]["code"] == "request_timeout"
    await asked.serving
    assert len(graph.cancelled) == 1
    assert "outcome=request_timeout" in caplog.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"prompt": "how to make a pipe bomb, gore"}, 400, "content_policy_violation"),
        ({"n": 1000}, 400, "invalid_value"),
        ({"model": "other"}, 404, "model_not_found"),
    ],
)
async def test_a_refusal_is_an_answer_of_its_own(body: dict[str, Any], status: int, code: str):
    given = services(rules=PromptRules.load())
    asked = Asked(create_app(given), URL, {**BODY, **body})
    answered, headers = await asked.start()
    assert (answered, headers["content-type"]) == (status, "application/json")
    assert code.encode() in (await asked.chunk() or b"")
    await asked.serving
    assert given.generations.admission.in_flight == 0


async def test_a_full_server_says_so_before_it_streams():
    given = services(limits={"max_queued_images": 1})
    with given.generations.admission.slot("somebody"):
        status, headers = await Asked(create_app(given), URL, BODY).start()
    assert status == 429
    assert "retry-after-ms" in headers


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("full", retry_after_s=1.0), "overloaded"),
        (REFUSED, "content_policy_violation"),
        (RuntimeError("unforeseen"), "internal_error"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_amid_the_stream_is_its_last_event(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="ray.serve")
    graph = PreviewingGraph(preview_steps=(6,), error=error)
    asked = Asked(create_app(services(graph)), URL, {**BODY, "partial_images": 1})
    partial, last = await asked.events_after_start()
    assert partial["event"] == "image_generation.partial_image"
    assert last["event"] == "error"
    assert last["data"]["error"]["code"] == code
    await asked.serving
    assert f"outcome={code}" in caplog.text


async def test_an_answer_that_was_kept_has_no_partial_images():
    graph = PreviewingGraph(preview_steps=range(1, 12))
    app = create_app(services(graph, result_cache={"max_bytes": 1 << 20}))
    first, second = [
        [
            event["event"]
            for event in await Asked(app, URL, {**BODY, "seed": 1}).events_after_start()
        ]
        for _ in range(2)
    ]
    assert first == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert second == ["image_generation.completed"]
    assert len(graph.jobs) == 1
