"""Debian's nginx for tests of what stands in front."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import free_port

# Where it is, PATH need not lead.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

needs_nginx = pytest.mark.skipif(
    NGINX is None and not os.environ.get("CI"),
    reason="there is no nginx here; `apt-get install nginx-light`",
)

_CONFIGURATION = """
daemon on;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        proxy_buffer_size 64k;
        proxy_buffers 8 256k;
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""
"""What is not said is as nginx comes: `proxy_buffering on`, for one. No answer of a test fills a
buffer, and so none comes through before its end unless it asks for that."""


@contextmanager
def proxied(upstream: int, folder: Path) -> Generator[int]:
    """The port of an nginx in front of this one; its files are in `folder`."""
    assert NGINX is not None, "CI needs nginx: `apt-get install nginx-light`"
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(_CONFIGURATION.format(folder=folder, port=port, upstream=upstream))
    command = [NGINX, "-c", str(path), "-p", str(folder), "-e", str(folder / "error.log")]
    # It listens once the command is done.
    subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        yield port
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, capture_output=True, text=True)
