"""How to get each answer that the document has: one function for a path, a status and a kind."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx

from pipelines import errors
from serve.api.services import Services
from tests.deployments.receipts import file_with, receipt
from tests.serve import fakes
from tests.serve.api.openapi.kept_jobs import KEPT
from tests.serve.api.pictures.samples import data_url, picture
from tests.serve.conftest import ClientOf
from tests.serve.fakes import PIXELS, FakeGraph, FakeStore

GENERATIONS = "/v1/images/generations"
PREFLIGHT = "/v1/images/preflight"
RECEIPTS = "/v1/receipts/read"
MODELS, MODEL = "/v1/models", "/v1/models/{model_id}"
FILE = "/v1/files/{file_id}"
TRACE, TRACES = "/v1/traces/{trace_id}", "/traces"
READINESS = ("/readyz", "/health")
LIVENESS = ("/healthz", "/liveness")
METRICS = "/metrics"
LOAD = "/load"
JOBS, JOB = "/v1/jobs", "/v1/jobs/{job_id}"
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
HUGGING_FACE_EDIT = "/hf/image-to-image"
DRAWING = (GENERATIONS, EDITS, VARIATIONS)
POSTED = (*DRAWING, PREFLIGHT, JOBS)
WITH_BODY = (*POSTED, RECEIPTS)
EVERY = "*"

JSON, HTML = "application/json", "text/html"
AT_ONCE = {"request_timeout_s": 1e-6}


PICTURE = data_url(picture(64, 64))
"""That edits of any kind bring along."""

FILE_BODY: dict[str, Any] = {
    "content": file_with(receipt()),
    "headers": {"content-type": "image/png"},
}
"""A file with a receipt."""


def services(*given: Any, **settings: Any) -> Services:
    """With jobs, which nobody runs."""
    return fakes.services(*given, **{"job_store": KEPT, **settings})


class Situation:
    """Sends one request to `path` by `method`, to an application over the services it is given."""

    def __init__(self, client_of: ClientOf, method: str, path: str) -> None:
        self.client_of = client_of
        self.method = method
        self.path = path

    async def ask(self, given: Services | None = None, **request: Any) -> httpx.Response:
        """By default for a model that is served, and with the body of a generation."""
        client = self.client_of(services(metrics={"route": True}) if given is None else given)
        return await self.send(client, **request)

    async def send(
        self, client: httpx.AsyncClient, *, name: str = "test-model", **request: Any
    ) -> httpx.Response:
        path = self.path
        for parameter, fixed in (("owner", "sluice"), ("alias", "test-model")):
            path = path.replace(f"{{{parameter}}}", fixed)
        path = re.sub(r"\{[a-z_]+\}", name, path)
        if self.method == "post" and not {"json", "content"} & set(request):
            request["json"] = {"prompt": "a cat"}
        if "json" in request and path in (EDITS, VARIATIONS, HUGGING_FACE_EDIT):
            request["json"] = {"image": PICTURE, **request["json"]}
        if "json" in request and path.endswith("/predictions"):
            request["json"] = {"input": request["json"]}
        return await client.request(self.method, path, **request)


Provoke = Callable[[Situation], Awaitable[httpx.Response]]


class Provocation(NamedTuple):
    paths: tuple[str, ...]
    status: int
    kind: str
    run: Provoke

    def fits(self, method: str, path: str, status: int, kind: str) -> bool:
        """`kind` is "" for HEAD, whose answers have no body. What goes wrong with bodies does so
        where there are some."""
        return (
            (self.paths == (EVERY,) or path in self.paths)
            and (self.paths != POSTED or method == "post")
            and self.status == status
            and kind in ("", self.kind)
        )


PROVOCATIONS: list[Provocation] = []


def provokes(
    paths: str | tuple[str, ...], status: int, *kinds: str
) -> Callable[[Callable[..., Awaitable[httpx.Response]]], Callable[..., Any]]:
    """Registers a function; one for several kinds is told which."""
    where = (paths,) if isinstance(paths, str) else paths

    def register(function: Callable[..., Awaitable[httpx.Response]]) -> Callable[..., Any]:
        for kind in kinds or ("",):
            run = _told(function, kind) if len(kinds) > 1 else function
            PROVOCATIONS.append(Provocation(where, status, kind, run))
        return function

    return register


def _told(function: Callable[..., Awaitable[httpx.Response]], kind: str) -> Provoke:
    return lambda situation: function(situation, kind)


async def endless_body() -> AsyncIterator[bytes]:
    """A body that begins and never ends."""
    yield b"{"
    await asyncio.Event().wait()


def slow(at: Situation) -> dict[str, Any]:
    """A body that the route begins to read."""
    content_type = "image/png" if at.path == RECEIPTS else JSON
    return {"content": endless_body(), "headers": {"content-type": content_type}}


# What was asked for


@provokes(MODELS, 200, JSON)
@provokes(MODEL, 200, JSON)
@provokes(LIVENESS, 200, JSON)
@provokes(READINESS, 200, JSON)
@provokes(PREFLIGHT, 200, JSON)
@provokes(DRAWING, 200, JSON)
@provokes(TRACES, 200, JSON)
@provokes(LOAD, 200, JSON)
async def plain(at: Situation) -> httpx.Response:
    return await at.ask()


@provokes(RECEIPTS, 200, JSON)
async def a_receipt(at: Situation) -> httpx.Response:
    return await at.ask(**FILE_BODY)


@provokes(DRAWING, 200, "image/png", "image/jpeg", "image/webp")
async def an_image(at: Situation, kind: str) -> httpx.Response:
    body = {"prompt": "warn me", "response_format": "file", "output_format": kind[6:]}
    return await at.ask(json=body)


@provokes(DRAWING, 200, "text/event-stream")
async def events(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": "a cat", "stream": True})


@provokes(DRAWING, 200, "application/zip")
async def images(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": "a cat", "n": 2, "response_format": "file"})


async def _file(at: Situation, kind: str, headers: dict[str, str]) -> httpx.Response:
    graph = FakeGraph()
    file_id = graph.store.put(PIXELS, kind)
    return await at.ask(services(graph), name=file_id, headers=headers)


@provokes(FILE, 200, "image/png", "image/jpeg", "image/webp")
async def a_file(at: Situation, kind: str) -> httpx.Response:
    return await _file(at, kind, {})


@provokes(FILE, 206, "image/png", "image/jpeg", "image/webp")
async def a_part(at: Situation, kind: str) -> httpx.Response:
    return await _file(at, kind, {"range": "bytes=1-3"})


@provokes(FILE, 304)
async def a_file_that_is_known(at: Situation) -> httpx.Response:
    return await _file(at, "image/png", {"if-none-match": "*"})


@provokes(TRACE, 200, JSON, HTML)
async def a_trace(at: Situation, kind: str) -> httpx.Response:
    client = at.client_of(services())
    drawn = await client.post(GENERATIONS, json={"prompt": "a cat"})
    return await at.send(client, name=drawn.headers["x-trace-id"], headers={"accept": kind})


@provokes(TRACES, 200, HTML)
async def the_page_of_traces(at: Situation) -> httpx.Response:
    return await at.ask(params={"format": "html"})


@provokes(METRICS, 200, "text/plain")
async def some_metrics(at: Situation) -> httpx.Response:
    async def text() -> bytes:
        return b"# none\n"

    given = services(metrics={"route": True})
    given.node_metrics = text
    return await at.ask(given)


# What the middleware refuses


@provokes(EVERY, 413, "request_too_large")
async def a_large_body(at: Situation) -> httpx.Response:
    limits = dict.fromkeys(("max_body_bytes", "max_file_bytes", "max_picture_body_bytes"), 1024)
    given = services(limits=limits, metrics={"route": True})
    return await at.ask(given, headers={"content-length": "1025", "content-type": JSON})


@provokes(EVERY, 414, "uri_too_long")
async def a_long_query(at: Situation) -> httpx.Response:
    given = services(limits={"max_header_bytes": 1024}, metrics={"route": True})
    return await at.ask(given, params={"x": "x" * 1024})


@provokes(EVERY, 431, "headers_too_large")
async def a_long_header(at: Situation) -> httpx.Response:
    given = services(limits={"max_header_bytes": 1024}, metrics={"route": True})
    return await at.ask(given, headers={"x": "x" * 1024})


@provokes(WITH_BODY, 408, "body_timeout")
async def a_slow_body(at: Situation) -> httpx.Response:
    return await at.ask(services(limits={"body_timeout_s": 0.01}), **slow(at))


@provokes((PREFLIGHT, RECEIPTS), 504, "request_timeout")
async def a_body_slower_than_the_request_may_be(at: Situation) -> httpx.Response:
    return await at.ask(services(limits=AT_ONCE), **slow(at))


@provokes(RECEIPTS, 429, "overloaded")
async def many_files_that_are_read(at: Situation) -> httpx.Response:
    return await _behind_another(at, services(limits={"max_file_reads": 1}))


@provokes(PREFLIGHT, 429, "overloaded")
async def many_unread_bodies(at: Situation) -> httpx.Response:
    return await _behind_another(at, services(limits={"max_unread_bodies": 1}))


async def _behind_another(at: Situation, given: Services) -> httpx.Response:
    """What is answered while another request's body is still coming."""
    client = at.client_of(given)
    first = asyncio.create_task(at.send(client, **slow(at)))
    for _ in range(10):
        await asyncio.sleep(0)
    try:
        if at.path == RECEIPTS:
            return await at.send(client, **FILE_BODY)
        return await at.send(client)
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@provokes(WITH_BODY, 415, "unsupported_media_type")
async def an_unknown_encoding(at: Situation) -> httpx.Response:
    headers = {"content-encoding": "br", "content-type": JSON}
    return await at.ask(content=b"prompt=x", headers=headers)


# What the routes refuse


@provokes(POSTED, 400, "invalid_value")
async def a_wrong_type(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": 1})


@provokes(RECEIPTS, 400, "invalid_value")
async def no_image(at: Situation) -> httpx.Response:
    return await at.ask(content=PIXELS, headers=FILE_BODY["headers"])


@provokes(POSTED, 400, "unsupported_feature")
async def an_adapter(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": "a cat", "lora": "x"})


@provokes(POSTED, 404, "file_not_found")
async def a_picture_that_is_not_there(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": "a cat", "image": "f" * 32})


@provokes(POSTED, 404, "model_not_found")
async def another_model_in_the_body(at: Situation) -> httpx.Response:
    return await at.ask(json={"prompt": "a cat", "model": "none"})


@provokes(MODEL, 404, "model_not_found")
@provokes(FILE, 404, "file_not_found")
@provokes(TRACE, 404, "trace_not_found")
async def another_name(at: Situation) -> httpx.Response:
    return await at.ask(name="none")


@provokes(TRACES, 404, "trace_not_found")
async def no_list(at: Situation) -> httpx.Response:
    return await at.ask(services(tracing={"listed": False}))


@provokes((TRACE, TRACES), 400, "invalid_value")
async def another_format(at: Situation) -> httpx.Response:
    return await at.ask(params={"format": "xml"})


@provokes(FILE, 416, "range_not_satisfiable")
async def beyond_the_end(at: Situation) -> httpx.Response:
    return await _file(at, "image/png", {"range": "bytes=1000-"})


@provokes(POSTED, 400, "content_policy_violation")
async def a_prompt_against_the_policy(at: Situation) -> httpx.Response:
    error = errors.ContentPolicyViolation(
        "refused", stage="prompt", category="hate", score=1.0, threshold=1.0, param="prompt"
    )
    return await _with_prompts(at, error)


@provokes(POSTED, 500, "stage_failed")
async def a_prompt_that_cannot_be_checked(at: Situation) -> httpx.Response:
    return await _with_prompts(at, errors.StageFailed("lost", stage="prompt_rules"))


async def _with_prompts(at: Situation, error: Exception) -> httpx.Response:
    given = services()
    given.generations.prompts = SimpleNamespace(check=raises(error))  # type: ignore[assignment]
    return await at.ask(given)


# What goes wrong behind the routes

OF_THE_GRAPH: dict[str, errors.SluiceError] = {
    "overloaded": errors.Overloaded("full", retry_after_s=1.2),
    "deadline_unreachable": errors.DeadlineUnreachable("no", earliest_s=1.0, retry_after_s=0.5),
    "degenerate_image": errors.DegenerateImage("all one value"),
    "checkpoint_error": errors.CheckpointError("damaged"),
    "not_ready": errors.NotReady("asleep"),
}


@provokes(DRAWING, 429, "overloaded", "deadline_unreachable")
@provokes(DRAWING, 500, "degenerate_image", "checkpoint_error")
async def the_graph_refuses(at: Situation, kind: str) -> httpx.Response:
    return await at.ask(services(FakeGraph(error=OF_THE_GRAPH[kind])))


@provokes(DRAWING, 503, "not_ready")
async def a_stage_cannot_start(at: Situation) -> httpx.Response:
    return await the_graph_refuses(at, "not_ready")


@provokes(READINESS, 503, JSON)
async def a_stage_that_starts(at: Situation) -> httpx.Response:
    return await at.ask(services(FakeGraph(stages={"Denoiser": False})))


@provokes(METRICS, 503, "not_ready")
async def no_agent(at: Situation) -> httpx.Response:
    return await at.ask()


@provokes(DRAWING, 504, "request_timeout")
async def a_graph_that_hangs(at: Situation) -> httpx.Response:
    return await at.ask(services(FakeGraph(hangs=True), limits={"request_timeout_s": 0.05}))


@provokes(DRAWING, 500, "internal_error")
async def a_graph_that_breaks(at: Situation) -> httpx.Response:
    return await at.ask(services(FakeGraph(error=RuntimeError("bug"))))


@provokes((PREFLIGHT, *READINESS, TRACE, TRACES, METRICS, LOAD, FILE), 500, "internal_error")
async def something_breaks(at: Situation) -> httpx.Response:
    return await at.ask(behind(raises(RuntimeError("bug"))))


@provokes(RECEIPTS, 500, "internal_error")
async def stages_that_break(at: Situation) -> httpx.Response:
    return await at.ask(behind(raises(RuntimeError("bug"))), **FILE_BODY)


@provokes((*READINESS, TRACE, TRACES, METRICS, LOAD), 504, "request_timeout")
async def something_hangs(at: Situation) -> httpx.Response:
    async def hangs(*_: Any) -> None:
        await asyncio.Event().wait()

    return await at.ask(behind(hangs, limits=AT_ONCE))


@provokes(FILE, 500, "stage_failed")
async def a_store_that_fails(at: Situation) -> httpx.Response:
    store = FakeStore()
    store.get = _blocking(errors.StageFailed("no bucket", stage="storage"))  # type: ignore[method-assign]
    return await at.ask(services(FakeGraph(store=store)))


@provokes(FILE, 504, "request_timeout")
async def a_store_that_is_slow(at: Situation) -> httpx.Response:
    store = FakeStore()
    store.get = lambda file_id: time.sleep(0.05)  # type: ignore[method-assign,return-value]
    return await at.ask(services(FakeGraph(store=store), limits=AT_ONCE))


def behind(asked: Callable[..., Any], limits: dict[str, float] | None = None) -> Services:
    """Services of which all that a route may wait for is `asked`."""
    graph = FakeGraph()
    graph.ready = asked  # type: ignore[method-assign]
    graph.store.get = _blocking(RuntimeError("bug"))  # type: ignore[method-assign]
    given = services(graph, metrics={"route": True}, limits=limits or {})
    given.generations.prompts = SimpleNamespace(check=asked)  # type: ignore[assignment]
    given.archive = SimpleNamespace(get=asked, latest=asked)  # type: ignore[assignment]
    given.node_metrics = asked
    given.running = asked
    given.load = SimpleNamespace(read=asked)  # type: ignore[assignment]
    return given


def raises(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def function(*_: Any, **__: Any) -> None:
        raise error

    return function


def _blocking(error: Exception) -> Callable[[str], Any]:
    def function(_: str) -> None:
        raise error

    return function
