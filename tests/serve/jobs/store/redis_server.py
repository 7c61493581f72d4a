"""A real `redis-server` of a test's own: on a socket in its folder, killed and started at will."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REDIS_SERVER = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(
    REDIS_SERVER is None,
    reason="redis-server is not installed; apt-get install redis-server",
)


class RedisServer:
    """`folder` must be short: the path of a socket has at most 107 characters. What it holds is
    there again after `kill` and `start`, by its append-only file."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._socket = folder / "redis.sock"
        self._arguments = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder)]
        self._arguments += [
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            *options,
        ]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Returns when it has read what it holds and listens."""
        assert REDIS_SERVER is not None
        self._process = subprocess.Popen(
            [REDIS_SERVER, *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError(f"redis-server ended: {''.join(lines)}")

    def stand_still(self) -> None:
        """SIGSTOP: it takes in what it is sent, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a power cut of its process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """Empty, and gone afterwards; skips the test where there is no `redis-server`."""
    if REDIS_SERVER is None:
        pytest.skip("redis-server is not installed; apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Empty, and gone after the test."""
    with running_redis() as server:
        yield server
