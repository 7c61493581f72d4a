"""A Hugging Face hub of one repository on a local port, which can fail as networks and disks do."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import git_hash

REPOSITORY = "tests/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files of `folder` as `REPOSITORY` at `COMMIT`, which is its branch main.

    `requests` has a (path, range) for each file that was asked for. `cuts` says after how many
    bytes a path's next answer breaks off; `damaged` paths have a byte changed on their way.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        self.listings = 0
        self.cuts: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.authorizations: set[str | None] = set()
        self.knows_ranges = True
        self.is_gated = False
        self.may_send = threading.Event()
        """While it is not set, files stop at their cut instead of breaking off there."""
        self.may_send.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.may_send.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def asked_for(self) -> list[str]:
        """The files that were asked for, in order of names, as often as they were."""
        return sorted(path for path, _ in self.requests)

    def ranges(self, path: str) -> list[str | None]:
        """The ranges in which a file was asked for."""
        return [wanted for asked, wanted in self.requests if asked == path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if REPOSITORY not in self.path:  # the library asks for more than it is asked
                    self.send_error(404)
                    return
                hub.authorizations.add(self.headers["authorization"])
                if hub.is_gated:
                    self.send_response(403)
                    self.send_header("X-Error-Code", "GatedRepo")
                    self.send_header("content-length", "0")
                    self.end_headers()
                elif self.path.startswith(f"/api/models/{REPOSITORY}/revision/"):
                    hub.listings += 1
                    self._send(json.dumps(hub.listing()).encode())
                else:
                    start = f"/{REPOSITORY}/resolve/{COMMIT}/"
                    assert self.path.startswith(start), self.path
                    self._send_file(self.path.removeprefix(start))

            def _send_file(self, path: str) -> None:
                wanted = self.headers["range"]
                hub.requests.append((path, wanted))
                content = (hub.folder / path).read_bytes()
                if path in hub.damaged:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                begins = int(wanted.removeprefix("bytes=").rstrip("-")) if hub.knows_ranges else 0
                cuts = hub.cuts.get(path)
                self._send(content[begins:], 206 if hub.knows_ranges else 200, cuts)

            def _send(self, body: bytes, status: int = 200, cuts: list[int] | None = None) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if cuts:
                    self.wfile.write(body[: cuts.pop(0)])
                    hub.may_send.wait()
                    self.close_connection = True
                else:
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def listing(self) -> dict[str, Any]:
        """What the hub tells of the files: SHA-256 of weights, git's hash of all others."""
        files: list[dict[str, Any]] = []
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file():
                continue
            content = path.read_bytes()
            file = {"rfilename": path.relative_to(self.folder).as_posix(), "size": len(content)}
            if path.suffix in (".safetensors", ".bin"):
                sha256 = hashlib.sha256(content).hexdigest()
                file["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
                file["blobId"] = "0" * 40
            else:
                file["blobId"] = git_hash(content)
            files.append(file)
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": files}
