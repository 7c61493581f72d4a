from __future__ import annotations

import base64
from collections.abc import Callable

import httpx
import pytest

from serve.api.schemas import ImageData, ImageGenerationRequest
from serve.cli.client import ServerError, SluiceClient, Unreachable
from serve.tracing.views.summary import TraceFilters

ANSWER = {
    "created": 1,
    "model": "m",
    "data": [{"b64_json": base64.b64encode(b"png").decode(), "seed": 3}],
    "output_format": "png",
    "size": "64x64",
    "usage": {
        "input_tokens": 1,
        "input_tokens_details": {"text_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"image_tokens": 2},
        "total_tokens": 3,
    },
    "warnings": [],
}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> SluiceClient:
    return SluiceClient("http://s/", transport=httpx.MockTransport(answer))


def test_an_image_and_only_the_fields_that_were_set():
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=ANSWER)

    with client(answer) as server:
        result = server.generate(ImageGenerationRequest(prompt="a cat", seed=3))
        assert server.image_bytes(result.data[0]) == b"png"
    assert str(seen[0].url) == "http://s/v1/images/generations"
    assert seen[0].read() == b'{"prompt":"a cat","seed":3}'


@pytest.mark.parametrize(
    "url", ["http://s", "http://s/", "http://s/v1", "http://s/v1/", "http://s//v1//"]
)
def test_the_url_may_be_that_of_the_openai_clients(url: str):
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={**ANSWER, "stages": {"Denoiser": True}})

    with SluiceClient(url, transport=httpx.MockTransport(answer)) as server:
        server.generate(ImageGenerationRequest(prompt="a cat"))
        assert server.readiness() == {"Denoiser": True}
        with pytest.raises(ServerError):
            server.traces(TraceFilters())
    assert paths == ["/v1/images/generations", "/readyz", "/traces"]


def test_a_path_before_v1_is_kept():
    with (
        SluiceClient(
            "http://s/sluice/v1/",
            transport=httpx.MockTransport(
                lambda request: httpx.Response(200, text=request.url.path)
            ),
        ) as server,
        pytest.raises(ServerError, match="http://s/sluice is not a Sluice server"),
    ):
        server.generate(ImageGenerationRequest(prompt="a cat"))


def test_a_linked_image_is_fetched():
    with client(lambda request: httpx.Response(200, content=request.url.path.encode())) as server:
        image = ImageData(url="http://s/v1/files/abc", seed=1)
        assert server.image_bytes(image) == b"/v1/files/abc"
        with pytest.raises(ServerError, match="neither"):
            server.image_bytes(ImageData(seed=1))


def test_a_refusal_carries_code_and_field():
    body = {"error": {"message": "n: must be 1 to 4", "code": "invalid_value", "param": "n"}}
    with (
        client(lambda _: httpx.Response(400, json=body)) as server,
        pytest.raises(ServerError, match="n: must be 1 to 4") as caught,
    ):
        server.generate(ImageGenerationRequest(prompt="x", n=9))
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "invalid_value",
        "n",
    )


@pytest.mark.parametrize("content", [b"<html>bad gateway", b'{"detail": "no"}', b'{"error": 3}'])
def test_another_servers_error(content: bytes):
    with (
        client(lambda _: httpx.Response(502, content=content)) as server,
        pytest.raises(ServerError, match="HTTP 502"),
    ):
        server.generate(ImageGenerationRequest(prompt="x"))


def test_another_servers_success():
    with (
        client(lambda _: httpx.Response(200, json={"hello": "world"})) as server,
        pytest.raises(ServerError, match="is not a Sluice server"),
    ):
        server.generate(ImageGenerationRequest(prompt="x"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ReadTimeout("slow"), "did not answer in time"),
        (httpx.ConnectError("refused"), "cannot be reached: refused"),
    ],
)
def test_no_answer(error: Exception, said: str):
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with client(fail) as server, pytest.raises(ServerError, match=said):
        server.generate(ImageGenerationRequest(prompt="x"))


def test_an_application_that_is_not_deployed_yet_is_no_refusal():
    proxy = "Path '/v1/jobs' not found. Ping http://here/-/routes for available routes."
    with (
        client(lambda _: httpx.Response(404, text=proxy)) as server,
        pytest.raises(Unreachable, match="no application now") as found,
    ):
        server.generate(ImageGenerationRequest(prompt="x"))
    assert found.value.is_passing
    assert found.value.status is None


def test_readiness():
    stages = {"Denoiser": False}
    with client(lambda _: httpx.Response(503, json={"stages": stages})) as server:
        assert server.readiness() == stages
    with client(lambda _: httpx.Response(404, text="no app")) as server:
        assert server.readiness() is None
