"""The metadata services of AWS and GCP, as far as a spot machine asks them, on one port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.cluster import wait_until

AWS = "/latest/meta-data/"
GCP = "/computeMetadata/v1/instance/"


class FakeMetadata:
    """Answers what `items` has by path, and 404 for the rest, to those who ask as they must."""

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.is_down = False
        self.token = "token-1"
        """Of AWS, the only one that is valid."""
        self.url = ""
        self.asked: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, str, str]:
        """Status, body and version of a request."""
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        self.asked.append(path)
        headers = request.headers
        if self.is_down:
            return 503, "", ""
        if request.command == "PUT":
            is_right = path == "/latest/api/token" and int(
                headers["X-aws-ec2-metadata-token-ttl-seconds"]
            )
            return (200, self.token, "") if is_right else (400, "", "")
        if path.startswith(AWS) and headers["X-aws-ec2-metadata-token"] != self.token:
            return 401, "", ""
        if path.startswith(GCP) and headers["Metadata-Flavor"] != "Google":
            return 403, "", ""
        if "wait_for_change" in query:
            self._wait_for_change(path, query)
        body = self.items.get(path)
        return (404, "", "") if body is None else (200, body, version_of(body))

    def _wait_for_change(self, path: str, query: dict[str, list[str]]) -> None:
        (seen,), (seconds,) = query["last_etag"], query["timeout_sec"]
        with suppress(AssertionError):
            wait_until(
                lambda: version_of(self.items.get(path, "")) != seen, within_s=float(seconds)
            )


def version_of(body: str) -> str:
    """An entity tag."""
    return body.encode().hex()


@contextmanager
def serving() -> Iterator[FakeMetadata]:
    """A service that runs."""
    fake = FakeMetadata()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, version = fake.answer(self)
            self.send_response(status)
            self.send_header("ETag", version)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
