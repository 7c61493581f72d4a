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


async def test_streaming_is_a_clear_400(openai_of: OpenAIOf):
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_of(FakeGraph()).images.generate(prompt="x", stream=True, partial_images=2)
    assert (caught.value.param, caught.value.code) == ("stream", "unsupported_feature")


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
