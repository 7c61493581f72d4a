"""A small typed client of this server, for the command line and the demo.

Anything bigger should use the official `openai` client, which the routes are made for.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any

import httpx
from httpx_sse import EventSource, connect_sse
from pydantic import BaseModel, ValidationError

from serve.api.pictures.heads import read_head
from serve.api.schemas import ImageData, ImageGenerationRequest
from serve.load.server_load import ServerLoad
from serve.tracing.views.otlp_reader import read_spans
from serve.tracing.views.summary import TraceFilters, TraceList, TraceSummary

_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_JSON = {"accept": "application/json"}
_EVENTS = "text/event-stream"
_PICTURE_FIELDS = frozenset({"image", "mask", "mask_image", "reference_image"})
_PASSING = (408, 502, 503, 504)
_NOT_DEPLOYED = "Path '"
"""How the words of Serve's proxy begin for a path that it does not know, as before an application
is deployed; the application's own are JSON."""
_STREAM_TIMEOUT = httpx.Timeout(10.0, read=30.0)
"""Of a stream of events, which says something every ten seconds."""


class ServerError(Exception):
    """The server refused, failed, or cannot be reached; the message can be shown as it is.

    `status` is the HTTP status, None without an answer; `code` and `param` are the error body's.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @property
    def is_passing(self) -> bool:
        """Whether the same may work in a moment: no answer came, or one that says so."""
        return self.status in _PASSING


class Unreachable(ServerError):
    """No answer came; what was asked may have been done all the same."""

    @property
    def is_passing(self) -> bool:
        return True


class NotDeployed(Unreachable):
    """Ray Serve's proxy answers, but the application is not deployed: nothing was done."""


class Images(BaseModel):
    """What is read of the answer to a generation, an older server's too."""

    data: list[ImageData]
    size: str
    warnings: list[str]


def body_of(request: ImageGenerationRequest) -> dict[str, Any]:
    """The fields that were set as JSON has them; the files that came with it as data URLs."""
    body = request.model_dump(exclude_unset=True, mode="json")
    urls = {name: _data_url(data) for name, data in request.uploads.items()}
    for name in _PICTURE_FIELDS & body.keys():
        written = body[name]
        body[name] = (
            [urls.get(each, each) for each in written]
            if isinstance(written, list)
            else urls.get(written, written)
        )
    return body


def _data_url(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f"data:{read_head(data).media_type};base64,{text}"


class SluiceClient:
    """Talks to one server; use it as a context manager. `transport` is for tests.

    `base_url` may be what the OpenAI clients are given, which ends in `/v1`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 600.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1").rstrip("/")
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=10.0), transport=transport
        )

    def __enter__(self) -> SluiceClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def generate(self, request: ImageGenerationRequest) -> Images:
        """The images of `request`; only the fields that were set are sent. Raises ServerError."""
        route = "edits" if request.has_pictures else "generations"
        answer = self.send("POST", f"/v1/images/{route}", json=body_of(request))
        try:
            return Images.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServerError(f"{self.base_url} is not a Sluice server: {error}") from error

    def image_bytes(self, image: ImageData) -> bytes:
        """The file of one image, inline or from its link. Raises ServerError."""
        if image.b64_json is not None:
            return base64.b64decode(image.b64_json)
        if image.url is None:
            raise ServerError("the server sent neither an image nor a link to it")
        return self.send("GET", image.url).content

    def trace(self, trace_id: str) -> Mapping[str, object]:
        """What became of a request, in OTLP's JSON. Raises ServerError."""
        if not _TRACE_ID.fullmatch(trace_id):
            raise ServerError(f"{trace_id!r} is no trace id, which has 32 hexadecimal digits")
        answer = self.send("GET", f"/v1/traces/{trace_id.lower()}")
        try:
            otlp: Mapping[str, object] = answer.json()
            read_spans(otlp)
        except ValueError as error:
            raise ServerError(f"{self.base_url} is not a Sluice server: {error}") from error
        return otlp

    def traces(self, filters: TraceFilters) -> Sequence[TraceSummary]:
        """The latest traces that the filters leave, the newest first. Raises ServerError."""
        answer = self.send("GET", "/traces", params=filters.query())
        try:
            return TraceList.model_validate_json(answer.content).data
        except ValidationError as error:
            raise ServerError(f"{self.base_url} is not a Sluice server: {error}") from error

    def is_alive(self, *, timeout_s: float) -> bool:
        """Whether the server answers at all, in time."""
        try:
            return self._http.get(f"{self.base_url}/healthz", timeout=timeout_s).is_success
        except httpx.HTTPError:
            return False

    def readiness(self) -> Mapping[str, bool] | None:
        """Whether each stage is ready, or None while nothing answers."""
        try:
            answer = self._http.get(f"{self.base_url}/readyz")
            return dict(answer.json()["stages"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def load(self) -> ServerLoad:
        """What the application has to do now. Raises ServerError."""
        answer = self.send("GET", "/load")
        try:
            return ServerLoad.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServerError(f"{self.base_url} is not a Sluice server: {error}") from error

    @contextmanager
    def events(
        self, path: str, *, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> Generator[EventSource]:
        """The stream of events there. Raises ServerError, also from the body when it breaks off."""
        with (
            self._answered(),
            connect_sse(
                self._http,
                "GET",
                self.base_url + path,
                params=params,
                headers=dict(headers),
                timeout=_STREAM_TIMEOUT,
            ) as source,
        ):
            if source.response.is_error:
                source.response.read()
                raise _refusal(source.response)
            if _EVENTS not in source.response.headers.get("content-type", ""):
                raise ServerError(f"{self.base_url} sends no events", status=200)
            yield source

    def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer, which is no error. Raises ServerError."""
        url = path if path.startswith("http") else self.base_url + path
        sent = {**_JSON, **(headers or {})}
        with self._answered():
            answer = self._http.request(method, url, json=json, params=params, headers=sent)
        if answer.is_error:
            raise _refusal(answer)
        return answer

    @contextmanager
    def _answered(self) -> Generator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.base_url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.base_url} cannot be reached: {error}") from error


def _refusal(answer: httpx.Response) -> ServerError:
    try:
        error = dict(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        if answer.status_code == HTTPStatus.NOT_FOUND and answer.text.startswith(_NOT_DEPLOYED):
            return NotDeployed(f"{answer.url.host} has no application now: {answer.text[:200]}")
        return ServerError(
            f"HTTP {answer.status_code}: {answer.text[:200]}", status=answer.status_code
        )
    return ServerError(
        str(error.get("message")),
        status=answer.status_code,
        code=error.get("code"),
        param=error.get("param"),
    )
