"""The official OpenAI client against the application: what its users rely on."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest

from pipelines.errors import (
    ContentPolicyViolation,
    DeadlineUnreachable,
    DegenerateImage,
    Overloaded,
    RequestTimeout,
    StageFailed,
)
from serve.http import create_app
from tests.serve.fakes import PIXELS, SPEC, FakeGraph, services
from tests.serve.previewing_graph import PreviewingGraph, preview_after

OpenAIOf = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def openai_of() -> AsyncIterator[OpenAIOf]:
    """Makes an OpenAI client of an application over a given graph; retries only when asked."""
    made: list[openai.AsyncOpenAI] = []

    def make(graph: FakeGraph, *, max_retries: int = 0, strict: bool = False) -> openai.AsyncOpenAI:
        transport = httpx2.ASGITransport(app=create_app(services(graph)))
        made.append(
            openai.AsyncOpenAI(
                api_key="unused",
                base_url="http://sluice.test/v1",
                http_client=httpx2.AsyncClient(transport=transport),
                max_retries=max_retries,
                _strict_response_validation=strict,
            )
        )
        return made[-1]

    yield make
    for client in made:
        await client.close()


async def test_an_image(openai_of: OpenAIOf):
    graph = FakeGraph()
    answer = await openai_of(graph).images.generate(
        prompt="a cat",
        model="sluice-shapes",
        n=2,
        size="128x64",  # pyright: ignore[reportArgumentType]
        quality="high",
        output_format="webp",
        output_compression=80,
        background="opaque",
        moderation="auto",
        user="u-1",
        extra_body={"seed": 3, "guidance_scale": 2.5, "deadline_ms": 5000, "priority": 1},
    )
    assert answer.data is not None
    assert [base64.b64decode(image.b64_json or "") for image in answer.data] == [PIXELS, PIXELS]
    assert all(
        (image.url or "").startswith("http://sluice.test/v1/files/") for image in answer.data
    )
    assert [getattr(image, "seed", None) for image in answer.data] == [3, 4]
    assert [getattr(image, "steps", None) for image in answer.data] == [18, 18]
    assert (answer.size, answer.quality, answer.output_format) == ("128x64", "high", "webp")
    assert answer.background == "opaque"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.input_tokens_details.text_tokens == 7
    assert getattr(answer, "warnings", None) == []
    params = graph.jobs[0].params
    assert (params.width, params.height, params.guidance_scale) == (128, 64, 2.5)


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
async def test_every_way_to_read_an_answer(openai_of: OpenAIOf, strict: bool):
    """`strict` makes the client raise where an answer is not of its declared types."""
    images = openai_of(FakeGraph(), strict=strict).images
    answers = [await images.generate(prompt="a cat")]
    raw = await images.with_raw_response.generate(prompt="a cat", extra_body={"steps": 3})
    assert raw.http_request.headers["x-stainless-lang"] == "python"
    answers.append(raw.parse())
    async with images.with_streaming_response.generate(prompt="a cat", quality="hd") as streamed:
        answers.append(await streamed.parse())
    assert [answer.quality for answer in answers] == ["medium", None, "high"]
    for answer in answers:
        assert isinstance(answer, openai.types.ImagesResponse)
        assert answer.data is not None
        assert base64.b64decode(answer.data[0].b64_json or "") == PIXELS


@pytest.mark.parametrize("quality", ["auto", "standard", "hd", "low", "medium", "high", "xhigh"])
async def test_no_quality_or_style_that_tools_always_send_is_refused(
    openai_of: OpenAIOf, quality: Any
):
    answer = await openai_of(FakeGraph(), strict=True).images.generate(
        prompt="a cat", quality=quality, style="vivid"
    )
    assert answer.quality in ("low", "medium", "high")
    assert any(text.startswith("style: ") for text in getattr(answer, "warnings", ()))


async def test_the_image_itself(openai_of: OpenAIOf):
    raw = await openai_of(FakeGraph()).images.with_raw_response.generate(
        prompt="a cat", extra_body={"response_format": "file"}
    )
    assert raw.headers["content-type"] == "image/png"
    assert raw.content == PIXELS


async def test_links_only(openai_of: OpenAIOf):
    answer = await openai_of(FakeGraph()).images.generate(prompt="x", response_format="url")
    assert answer.data is not None
    assert answer.data[0].b64_json is None
    assert answer.data[0].url


async def test_models(openai_of: OpenAIOf):
    client = openai_of(FakeGraph())
    (listed,) = [model async for model in await client.models.list()]
    assert listed.created == SPEC.created
    assert (await client.models.retrieve(listed.id)).id == listed.id
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-image-1")
    assert caught.value.code == "model_not_found"


async def test_a_bad_value(openai_of: OpenAIOf):
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_of(FakeGraph()).images.generate(prompt="x", n=1000)
    error = caught.value
    assert (error.param, error.code, error.type) == ("n", "invalid_value", "invalid_request_error")
    assert "must be 1 to 10, got 1000" in error.message
    assert error.request_id


class TestStreaming:
    @pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
    async def test_partial_images_and_then_the_image(self, openai_of: OpenAIOf, strict: bool):
        graph = PreviewingGraph(preview_steps=range(1, 12))
        stream = await openai_of(graph, strict=strict).images.generate(
            prompt="a cat", stream=True, partial_images=2, user="u-1", extra_body={"seed": 3}
        )
        first, second, completed = [event async for event in stream]
        for index, event in enumerate((first, second)):
            assert isinstance(event, openai.types.ImageGenPartialImageEvent)
            assert event.type == "image_generation.partial_image"
            assert event.partial_image_index == index
            assert base64.b64decode(event.b64_json) == preview_after(4 * (index + 1))
            assert (event.size, event.quality, event.background) == ("64x64", "medium", "opaque")
            assert event.output_format == "jpeg"  # the preview's own
            assert event.created_at > 0
            assert getattr(event, "image_index", None) == 0
        assert isinstance(completed, openai.types.ImageGenCompletedEvent)
        assert completed.type == "image_generation.completed"
        assert base64.b64decode(completed.b64_json) == PIXELS
        assert (completed.size, completed.quality) == ("64x64", "medium")
        assert (completed.background, completed.output_format) == ("opaque", "png")
        assert completed.usage.total_tokens == 7 + 16
        assert completed.usage.input_tokens_details.text_tokens == 7
        assert completed.safety_identifier == "u-1"
        assert [getattr(completed, name, None) for name in ("seed", "steps")] == [3, 12]
        assert getattr(completed, "url", "").startswith("http://sluice.test/v1/files/")
        assert getattr(completed, "warnings", None) == []

    async def test_several_images(self, openai_of: OpenAIOf):
        graph = PreviewingGraph(preview_steps=range(1, 12))
        stream = await openai_of(graph, strict=True).images.generate(
            prompt="a cat", n=3, stream=True, partial_images=1, response_format="b64_json"
        )
        events = [event async for event in stream]
        partial, completed = events[:3], events[3:]
        assert [getattr(event, "image_index", None) for event in partial] == [0, 1, 2]
        assert [getattr(event, "image_index", None) for event in completed] == [0, 1, 2]
        assert not any(hasattr(event, "url") for event in completed)
        usages = [
            event.usage
            for event in completed
            if isinstance(event, openai.types.ImageGenCompletedEvent)
        ]
        assert [usage.input_tokens for usage in usages] == [7, 0, 0]
        assert [usage.output_tokens for usage in usages] == [16, 16, 16]
        assert sum(usage.total_tokens for usage in usages) == 7 + 3 * 16

    async def test_no_partial_images_unless_they_are_asked_for(self, openai_of: OpenAIOf):
        graph = PreviewingGraph(preview_steps=range(1, 12))
        stream = await openai_of(graph).images.generate(prompt="a cat", stream=True)
        assert [event.type async for event in stream] == ["image_generation.completed"]
        assert graph.previews_shown == 0

    async def test_steps_of_ones_own_are_of_no_quality(self, openai_of: OpenAIOf):
        stream = await openai_of(FakeGraph(), strict=True).images.generate(
            prompt="a cat", stream=True, extra_body={"num_inference_steps": 3}
        )
        (completed,) = [event async for event in stream]
        assert completed.quality == "auto"

    async def test_an_error_in_the_middle_is_raised(self, openai_of: OpenAIOf):
        failure = StageFailed("VaeDecoder failed", stage="VaeDecoder")
        graph = PreviewingGraph(preview_steps=(6,), error=failure)
        stream = await openai_of(graph).images.generate(
            prompt="a cat", stream=True, partial_images=1
        )
        assert (await anext(stream)).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="VaeDecoder failed") as caught:
            await anext(stream)
        assert caught.value.code == "stage_failed"

    async def test_a_refusal_before_it_begins_is_an_answer(self, openai_of: OpenAIOf):
        client = openai_of(FakeGraph())
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(prompt="a cat", stream=True, partial_images=4)
        assert caught.value.param == "partial_images"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(
                prompt="a cat", stream=True, extra_body={"response_format": "file"}
            )
        assert caught.value.param == "response_format"


async def test_a_refusal(openai_of: OpenAIOf):
    refused = ContentPolicyViolation(
        "refused", stage="image", category="nsfw", score=0.9, threshold=0.8, image_index=0
    )
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_of(FakeGraph(error=refused)).images.generate(prompt="x")
    assert caught.value.code == "content_policy_violation"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["stage"] == "image"
    assert caught.value.body["score"] == 0.9


async def test_an_unknown_model(openai_of: OpenAIOf):
    with pytest.raises(openai.NotFoundError) as caught:
        await openai_of(FakeGraph()).images.generate(prompt="x", model="dall-e-3")
    assert caught.value.code == "model_not_found"


async def test_too_large(openai_of: OpenAIOf):
    with pytest.raises(openai.APIStatusError) as caught:
        await openai_of(FakeGraph()).images.generate(prompt="x" * 2_000_000)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (Overloaded("full", retry_after_s=0.01), 2),
        (DeadlineUnreachable("late", earliest_s=2.0, retry_after_s=0.01), 2),
        (DeadlineUnreachable("never", earliest_s=2.0), 1),
        (StageFailed("Denoiser failed", stage="Denoiser"), 2),
        (RequestTimeout("too long"), 1),
        (DegenerateImage("not finite"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_client_repeats_only_what_may_help(
    openai_of: OpenAIOf, failure: Exception, tries: int
):
    graph = FakeGraph(error=failure)
    with pytest.raises(openai.APIStatusError):
        await openai_of(graph, max_retries=1).images.generate(prompt="x")
    assert len(graph.jobs) == tries
