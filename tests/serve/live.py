"""The application behind a real HTTP server on this machine, for clients that cannot be told apart
from those of users: in a thread of its own, with its jobs and webhooks running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvicorn

from serve.api.services import Services
from serve.http import create_app

T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """`url` is where it listens, `loop` where it runs."""

    url: str
    services: Services
    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns in the server's own thread."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result()


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await super().startup()
        self.loop = asyncio.get_running_loop()
        self.listens.set()

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]


@contextmanager
def live(services: Services, *, certificate: Path | None = None) -> Iterator[Live]:
    """Serves until the end, over TLS with `certificate` (key and chain in one file)."""
    config = uvicorn.Config(
        create_app(services),
        host="127.0.0.1",
        port=0,
        log_config=None,
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    server = _Server(config)

    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.listens.wait(60), "the server did not start"
        assert server.loop is not None
        scheme = "http" if certificate is None else "https"
        yield Live(f"{scheme}://127.0.0.1:{server.port}", services, server.loop)
    finally:
        server.should_exit = True
        thread.join()
