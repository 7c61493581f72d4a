"""Where traces go besides the store: an OpenTelemetry collector, and a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pipelines.tracing.spans import Attribute, Attributes
from serve.settings.sections import TracingConfig
from serve.tracing.otlp import sdk_spans, to_json
from serve.tracing.recorder import Sink, Trace

logger = logging.getLogger("ray.serve")

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own: set one, and traces are sent there over HTTP."""

_MAX_WAITING = 1000
_CLOSE_S = 5.0


def resource(replica: str, version: str) -> Attributes:
    """This process, as OpenTelemetry names one; `OTEL_RESOURCE_ATTRIBUTES` are added."""
    own = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME", "sluice"),
        "service.version": version,
        "service.instance.id": replica,
    }
    described = Resource.create(own).attributes
    return {name: value for name, value in described.items() if isinstance(value, Attribute)}


def has_endpoint() -> bool:
    """Whether the environment names a collector."""
    return any(os.environ.get(name) for name in ENDPOINT_VARIABLES)


def sinks(config: TracingConfig) -> list[Sink]:
    """Where `config` and the environment have traces go, besides the store."""
    found: list[Sink] = []
    if config.enabled and has_endpoint():
        found.append(Collector())
    if config.enabled and config.file is not None:
        found.append(TraceFile(config.file))
    return found


class Collector:
    """Sends traces to the collector of the environment, in batches, from a thread of the SDK's.

    What cannot be sent is retried and then dropped by the SDK, which logs it.
    """

    def __init__(self) -> None:
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def put(self, trace: Trace) -> None:
        for span in sdk_spans(trace):
            self._processor.on_end(span)

    def close(self) -> None:
        """Send what waits; a collector that does not answer holds this up for seconds only."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE_S)


class TraceFile:
    """Appends a line of OTLP JSON for each trace, from a thread of its own.

    A disk that is too slow or full loses traces, with a line in the log, and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: queue.Queue[Trace | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="trace-file", daemon=True)
        self._thread.start()

    def put(self, trace: Trace) -> None:
        try:
            self._waiting.put_nowait(trace)
        except queue.Full:
            logger.warning("tracing.file: a trace was dropped, as %s is too slow", self._path)

    def close(self) -> None:
        """Write what was put, and end; blocks, but not on a disk that hangs."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (trace := self._waiting.get()) is not None:
            line = json.dumps(to_json(sdk_spans(trace))) + "\n"
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # In one write, as other replicas of this machine may append as well.
                with self._path.open("ab", buffering=0) as file:
                    file.write(line.encode())
            except OSError as error:
                logger.warning("tracing.file: %s", error)
