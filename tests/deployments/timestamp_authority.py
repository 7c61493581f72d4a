"""A timestamp authority (RFC 3161) on this machine: OpenSSL's, behind HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deployments.certificates import write_timestamp_certificate

OPENSSL = shutil.which("openssl")

needs_openssl = pytest.mark.skipif(
    OPENSSL is None and not os.environ.get("CI"),
    reason="there is no openssl here; `apt-get install openssl`",
)

_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"

_CONFIGURATION = """
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
signer_digest = sha256
accuracy = secs:1
"""


@dataclass
class TimestampAuthority:
    """`name` is that of its certificate, `content_types` what it was asked in."""

    url: str
    name: str
    content_types: list[str | None] = field(default_factory=list)


@contextmanager
def timestamping(folder: Path) -> Iterator[TimestampAuthority]:
    """An authority that answers; its files are in `folder`."""
    assert OPENSSL is not None, "CI needs openssl: `apt-get install openssl`"
    files = write_timestamp_certificate(folder)
    configuration = folder / "tsa.cnf"
    configuration.write_text(_CONFIGURATION.format(folder=folder))
    (folder / "serial").write_text("01\n")
    command = [OPENSSL, "ts", "-reply", "-config", str(configuration), "-section", "here"]
    command += ["-signer", str(files.chain), "-inkey", str(files.key), "-chain", str(files.chain)]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            authority.content_types.append(self.headers["content-type"])
            query, reply = folder / "query.tsq", folder / "reply.tsr"
            query.write_bytes(self.rfile.read(int(self.headers["content-length"])))
            subprocess.run(
                [*command, "-queryfile", str(query), "-out", str(reply)],
                check=True,
                capture_output=True,
            )
            answer = reply.read_bytes()
            self.send_response(200)
            self.send_header("content-type", _REPLY)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        authority = TimestampAuthority(f"http://127.0.0.1:{server.server_port}/", files.name)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield authority
        finally:
            server.shutdown()
            thread.join()
