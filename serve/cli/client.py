"""A small typed client of this server, for the command line and the demo.

Anything bigger should use the official `openai` client, which the routes are made for.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from types import TracebackType

import httpx
from pydantic import ValidationError

from serve.api.schemas import ImageData, ImageGenerationRequest, ImagesResponse
from serve.tracing.views.otlp_reader import read_spans
from serve.tracing.views.summary import TraceFilters, TraceList, TraceSummary

_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_JSON = {"accept": "application/json"}


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
        self._base_url = base_url.rstrip("/").removesuffix("/v1").rstrip("/")
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

    def generate(self, request: ImageGenerationRequest) -> ImagesResponse:
        """The images of `request`; only the fields that were set are sent. Raises ServerError."""
        body = request.model_dump(exclude_unset=True)
        answer = self._send("POST", "/v1/images/generations", json=body)
        try:
            return ImagesResponse.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServerError(f"{self._base_url} is not a Sluice server: {error}") from error

    def image_bytes(self, image: ImageData) -> bytes:
        """The file of one image, inline or from its link. Raises ServerError."""
        if image.b64_json is not None:
            return base64.b64decode(image.b64_json)
        if image.url is None:
            raise ServerError("the server sent neither an image nor a link to it")
        return self._send("GET", image.url).content

    def trace(self, trace_id: str) -> Mapping[str, object]:
        """What became of a request, in OTLP's JSON. Raises ServerError."""
        if not _TRACE_ID.fullmatch(trace_id):
            raise ServerError(f"{trace_id!r} is no trace id, which has 32 hexadecimal digits")
        answer = self._send("GET", f"/v1/traces/{trace_id.lower()}")
        try:
            otlp: Mapping[str, object] = answer.json()
            read_spans(otlp)
        except ValueError as error:
            raise ServerError(f"{self._base_url} is not a Sluice server: {error}") from error
        return otlp

    def traces(self, filters: TraceFilters) -> Sequence[TraceSummary]:
        """The latest traces that the filters leave, the newest first. Raises ServerError."""
        answer = self._send("GET", "/traces", params=filters.query())
        try:
            return TraceList.model_validate_json(answer.content).data
        except ValidationError as error:
            raise ServerError(f"{self._base_url} is not a Sluice server: {error}") from error

    def is_alive(self, *, timeout_s: float) -> bool:
        """Whether the server answers at all, in time."""
        try:
            return self._http.get(f"{self._base_url}/healthz", timeout=timeout_s).is_success
        except httpx.HTTPError:
            return False

    def readiness(self) -> Mapping[str, bool] | None:
        """Whether each stage is ready, or None while nothing answers."""
        try:
            answer = self._http.get(f"{self._base_url}/readyz")
            return dict(answer.json()["stages"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        url = path if path.startswith("http") else self._base_url + path
        try:
            answer = self._http.request(method, url, json=json, params=params, headers=_JSON)
        except httpx.TimeoutException as error:
            raise ServerError(f"{self._base_url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(f"{self._base_url} cannot be reached: {error}") from error
        if answer.is_error:
            raise _refusal(answer)
        return answer


def _refusal(answer: httpx.Response) -> ServerError:
    try:
        error = dict(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return ServerError(
            f"HTTP {answer.status_code}: {answer.text[:200]}", status=answer.status_code
        )
    return ServerError(
        str(error.get("message")),
        status=answer.status_code,
        code=error.get("code"),
        param=error.get("param"),
    )
