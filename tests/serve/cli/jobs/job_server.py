"""A server with one job at a time, over real HTTP: what the command line relies on, and no images
drawn. Tests push the job on, and break what they like."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

FILE = b"an image"
OVER = ("succeeded", "failed", "cancelled", "expired", "moderated")
PATIENCE_S = 60.0
"""Bounds hanging; nothing is measured by it."""


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class JobServer:
    """`job` is the one job, made by the first submit; its events are numbered from 1.

    `script` are the changes that happen by themselves as soon as somebody listens; an empty one is
    a comment in the stream, and nothing happens until the job was asked about. `breaks` are
    the numbers of events after which a stream breaks off, each once. `faults` are statuses that
    the next requests are answered, of submits only, and `refusal` the error that all of these are.
    A cancel is heeded if `heeds_cancel`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.job: dict[str, Any] | None = None
        self.others: list[dict[str, Any]] = []
        self.script: list[dict[str, Any]] = []
        self.breaks: list[int] = []
        self.faults: list[int] = []
        self.refusal: dict[str, Any] | None = None
        self.has_jobs = True
        self.has_streams = True
        self.heeds_cancel = True
        self.file = FILE
        self.load: dict[str, Any] | None = None
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._keys: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._ended = False

    def make(self, **changes: Any) -> dict[str, Any]:
        """A job that waits, as a submit makes it."""
        with self._changed:
            self.job = {**queued_job(), **changes}
            self._tell("job.queued", {"job": self.job})
            return self.job

    def push(self, **changes: Any) -> None:
        """The job has changed: by an event of its progress if there is nothing else."""
        with self._changed:
            assert self.job is not None
            self.job = {**self.job, **changes}
            if "status" not in changes:
                self._tell("job.progress", changes)
            else:
                self._tell(f"job.{changes['status']}", {"job": self.job})

    def wait_for(self, method: str, ending: str) -> Asked:
        """The first request whose path ends so, as soon as it is there."""

        def find() -> Asked | None:
            for each in self.asked:
                if each.method == method and each.path.endswith(ending):
                    return each
            return None

        with self._changed:
            found = self._changed.wait_for(find, timeout=PATIENCE_S)
        assert found is not None, f"no {method} {ending} in {self.asked}"
        return found

    def paths(self, method: str) -> list[str]:
        return [each.path for each in self.asked if each.method == method]

    def end(self) -> None:
        """Let go of all streams."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def note(self, asked: Asked) -> None:
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()

    def submit(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """The job under the key, made if there is none. The seed is the body's."""
        if key not in self._keys:
            self._keys[key] = self.make(request=body)
        return self.job or self._keys[key]

    def cancel(self) -> dict[str, Any]:
        assert self.job is not None
        if self.job["status"] not in OVER and self.heeds_cancel:
            self.push(status="cancelled", finished_at=3.0)
        return self.job

    def is_quiet(self, after: int) -> bool:
        """Whether a comment comes before event `after` + 1."""
        with self._changed:
            if len(self._events) > after or self.script[:1] != [{}]:
                return False
            self.script.pop(0)
            return True

    def wait_for_another(self, path: str, before: int) -> None:
        """Until more than `before` have asked for `path`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.paths("GET").count(path) > before, timeout=PATIENCE_S
            )

    def next_event(self, after: int) -> tuple[str, dict[str, Any]] | None:
        """Number `after` + 1, waited for; None at the end."""
        with self._changed:
            if len(self._events) == after and self.script:
                self.push(**self.script.pop(0))
            self._changed.wait_for(
                lambda: self._ended or len(self._events) > after, timeout=PATIENCE_S
            )
            return None if len(self._events) <= after else self._events[after]

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        assert self.job is not None
        told = {"type": kind, "job_id": self.job["id"], "at": 1.0, **data}
        self._events.append((kind, told))
        self._changed.notify_all()


def queued_job() -> dict[str, Any]:
    return {
        "id": f"job_{'0' * 31}1",
        "object": "job",
        "kind": "generate",
        "status": "queued",
        "model": "m",
        "created_at": 1.0,
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "progress": progress("queued", 0),
        "queue": {"position": 3},
        "eta": {"ms": 12_000, "reason": "denoisers are busy"},
        "request": {"prompt": "a cat", "seed": 9},
        "outputs": [],
        "usage": None,
        "safety": None,
        "warnings": [],
        "error": None,
        "trace_id": "ab" * 16,
        "pending_action": None,
        "attempts": 0,
        "of_a_newer_server": 1,
    }


def progress(phase: str, step: int, total: int = 28) -> dict[str, Any]:
    return {
        "phase": phase,
        "step": step,
        "total": total,
        "fraction": step / total,
        "images": [{"image": 0, "phase": phase, "step": step, "total": total}],
    }


def output(image: int, seed: int, data: bytes = FILE) -> dict[str, Any]:
    return {
        "image": image,
        "url": f"/v1/files/{image}",
        "seed": seed,
        "width": 64,
        "height": 64,
        "sha256": hashlib.sha256(data).hexdigest(),
        "output_format": "png",
        "num_bytes": len(data),
        "steps": 28,
    }


def drawn(*seeds: int, **changes: Any) -> list[dict[str, Any]]:
    """What happens to a job from its start to its images."""
    outputs = [output(i, seed) for i, seed in enumerate(seeds)]
    return [
        {"status": "running", "queue": None, "started_at": 2.0, "attempts": 1},
        {"progress": progress("denoise", 3)},
        {"progress": progress("denoise", 20)},
        {"progress": progress("decode", 28)},
        {"status": "succeeded", "finished_at": 4.5, "eta": None, "outputs": outputs, **changes},
    ]


@contextmanager
def job_server() -> Generator[JobServer]:
    """One that listens on a free port of this machine."""
    served = JobServer()

    class Handler(_Handler):
        server_of_jobs = served

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = False
    served.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        served.end()
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_jobs: JobServer

    def log_message(self, format: str, *args: Any) -> None:
        """Not among the output of a test."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        # No connection is used again: threads end with their requests.
        self.close_connection = True
        server, url = self.server_of_jobs, urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.note(Asked(self.command, url.path, query, headers, body))
        match [self.command, *url.path.strip("/").split("/")]:
            case ["POST", "v1", "images", "generations" | "edits"]:
                self._json(200, _generation(body))
            case ["GET", "load"] if server.load is not None:
                self._json(200, server.load)
            case ["GET", "v1", "files", _]:
                self._send(200, "image/png", server.file)
            case ["POST", "v1", "jobs"] if server.has_jobs:
                if server.refusal is not None:
                    self._json(400, {"error": {"type": "t", **server.refusal}})
                elif server.faults:
                    self._refuse(server.faults.pop(0), "not now")
                else:
                    self._json(202, server.submit(headers["idempotency-key"], body))
            case ["GET", "v1", "jobs"]:
                self._page(query)
            case [method, "v1", "jobs", job_id, *rest]:
                self._of_job(method, job_id, rest)
            case _:
                self._refuse(404, "there is no such route", code="not_found")

    def _of_job(self, method: str, job_id: str, rest: list[str]) -> None:
        server = self.server_of_jobs
        if server.job is None or server.job["id"] != job_id:
            self._refuse(404, f"no job {job_id!r} is yours", code="job_not_found")
        elif rest == ["events"] and server.has_streams:
            self._stream()
        elif rest == ["cancel"]:
            self._json(200, server.cancel())
        elif rest == ["keep"]:
            server.push(pending_action="keep")
            self._json(200, server.job)
        elif method == "DELETE":
            if server.job["status"] in OVER:
                self._send(204, None, b"")
            else:
                self._refuse(409, "the job is not over: cancel it first", code="job_conflict")
        elif not rest:
            if not server.has_streams and server.script:
                server.push(**server.script.pop(0))
            self._json(200, server.job)
        else:
            self._refuse(404, "there is no such route", code="not_found")

    def _stream(self) -> None:
        server = self.server_of_jobs
        number = int(self.headers.get("last-event-id", 0))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b": here\n\n")
        try:
            while True:
                about = self.path.partition("/events")[0]
                before = server.paths("GET").count(about)
                if server.is_quiet(number):
                    self.wfile.write(b": still here\n\n")
                    server.wait_for_another(about, before)
                if (event := server.next_event(number)) is None:
                    return
                number += 1
                kind, data = event
                text = f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
                self.wfile.write(text.encode())
                if number in server.breaks:
                    server.breaks.remove(number)
                    return
                if kind.removeprefix("job.") in OVER:
                    return
        except (BrokenPipeError, ConnectionResetError):
            return  # nobody listens any more

    def _page(self, query: dict[str, str]) -> None:
        server = self.server_of_jobs
        jobs = [*([server.job] if server.job else []), *server.others]
        wanted = query.get("status", "").split(",") if "status" in query else None
        jobs = [job for job in jobs if wanted is None or job["status"] in wanted]
        first = int(query.get("cursor", 0))
        last = first + int(query["limit"])
        # At most two on a page, so that there are several.
        last = min(last, first + 2)
        cursor = str(last) if last < len(jobs) else None
        self._json(200, {"object": "list", "data": jobs[first:last], "next_cursor": cursor})

    def _refuse(self, status: int, message: str, *, code: str = "x") -> None:
        error = {"message": message, "type": "t", "param": None, "code": code}
        self._json(status, {"error": error})

    def _json(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str | None, content: bytes) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _generation(body: dict[str, Any]) -> dict[str, Any]:
    images = [{"url": f"/v1/files/{i}", "seed": body["seed"] + i} for i in range(body.get("n", 1))]
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {
        "input_tokens_details": {"text_tokens": 1},
        "output_tokens_details": {"image_tokens": 1},
    }
    return {
        "created": 1,
        "model": "m",
        "data": images,
        "output_format": "png",
        "quality": None,
        "size": "64x64",
        "usage": usage | details,
        "warnings": [],
    }
