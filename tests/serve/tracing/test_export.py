"""What a collector gets, from the SDK's exporter over HTTP, and what is there once a replica ended.

The collector is a server of the test's that reads requests with OpenTelemetry's own protobufs.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serve.api.services import Services
from serve.http import create_app
from serve.settings.settings import Settings, TracingConfig
from serve.tracing.export import resource, sinks
from tests.cluster import free_port
from tests.serve.fakes import SPEC, FakeGraph

URL = "/v1/images/generations"
OF = resource("replica-1", "1.2.3")
PROMPT = "a secret cat"


class CollectorServer(ThreadingHTTPServer):
    """Keeps all that is sent to `/v1/traces`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[SentSpan]:
        return [
            span
            for request in self.requests
            for resource_spans in request.resource_spans
            for scope in resource_spans.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: CollectorServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectorServer]:
    with CollectorServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


def draw(config: TracingConfig, **fields: Any) -> dict[str, Any]:
    """A request to a replica that then ends; its trace as `GET /v1/traces/{id}` has it."""
    graph = FakeGraph()
    given = Services.over(
        graph,
        graph.store,
        settings=Settings.load(),
        spec=SPEC,
        rules=None,
        resource=OF,
        sinks=sinks(config),
    )
    with TestClient(create_app(given)) as client:
        answer = client.post(URL, json={"prompt": PROMPT, **fields})
        found = client.get(f"/v1/traces/{answer.headers['x-trace-id']}")
    assert found.status_code == 200
    return found.json()


def test_a_collector_has_every_span_once_the_replica_has_ended(
    collector: CollectorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    otlp = draw(TracingConfig(), n=2, seed=7)
    shown = otlp["resourceSpans"][0]["scopeSpans"][0]["spans"]
    sent = {span.span_id.hex(): span for span in collector.spans()}
    assert {span["spanId"] for span in shown} == set(sent)
    for span in shown:
        other = sent[span["spanId"]]
        assert other.name == span["name"]
        assert other.trace_id.hex() == span["traceId"]
        assert other.parent_span_id.hex() == span.get("parentSpanId", "")
        assert str(other.start_time_unix_nano) == span["startTimeUnixNano"]
        assert str(other.end_time_unix_nano) == span["endTimeUnixNano"]
    roots = [span for span in sent.values() if not span.parent_span_id]
    assert [root.kind for root in roots] == [SentSpan.SPAN_KIND_SERVER]
    of = {
        pair.key: pair.value.string_value
        for pair in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert of["service.name"] == "sluice"
    assert (of["service.instance.id"], of["service.version"]) == ("replica-1", "1.2.3")
    assert collector.headers[0]["authorization"] == "Bearer abc"
    assert PROMPT not in str(collector.requests)


def test_a_file_has_every_trace_once_the_replica_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "traces" / "file.jsonl"
    otlp = draw(TracingConfig(file=file))
    (line,) = file.read_text().splitlines()
    written = json.loads(line)
    root = written["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    (path,) = [each for each in root["attributes"] if each["key"] == "url.path"]
    root["attributes"].remove(path)  # which may name a job, so not everybody is shown it
    assert written == otlp


def test_a_collector_that_is_not_there_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("serve.tracing.export._CLOSE_S", 0.2)
    given_up, shutdown = threading.Event(), BatchSpanProcessor.shutdown

    def shutdown_that_tries_on(processor: BatchSpanProcessor) -> None:
        given_up.wait()
        shutdown(processor)

    monkeypatch.setattr(BatchSpanProcessor, "shutdown", shutdown_that_tries_on)
    assert draw(TracingConfig())  # the replica has ended, and the SDK still tries
    given_up.set()


def test_without_an_endpoint_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert sinks(TracingConfig()) == []
