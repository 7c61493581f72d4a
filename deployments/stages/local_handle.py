"""LocalHandle: calls to a stage in this process, in the shape of calls over a Serve handle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import Any


class LocalHandle:
    """What `Calls` and `Graph` use of a `DeploymentHandle`, over a stage in this process."""

    app_name = ""
    deployment_name = ""

    def __init__(self, stage: object, method_name: str = "", *, stream: bool = False) -> None:
        self._stage = stage
        self._method_name = method_name
        self._stream = stream

    def options(
        self, *, method_name: str = "", stream: bool = False, _by_reference: bool = True
    ) -> LocalHandle:
        return LocalHandle(
            self._stage, method_name or self._method_name, stream=stream or self._stream
        )

    def remote(self, *args: Any, **kwargs: Any) -> LocalResponse | LocalStream:
        """Call the method as a task; responses of other calls among `args` are awaited first."""
        method = getattr(self._stage, self._method_name)
        if self._stream:
            return LocalStream(method, args, kwargs)
        return LocalResponse(method, args, kwargs)

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> LocalBroadcast:
        """Call the method of all replicas: of this one."""
        return LocalBroadcast(LocalHandle(self._stage, method_name).remote(*args, **kwargs))


class LocalBroadcast:
    """Calls under way, as `DeploymentBroadcastResponse`."""

    def __init__(self, response: LocalResponse | LocalStream) -> None:
        assert isinstance(response, LocalResponse)
        self._response = response

    async def results_async(
        self, *, timeout_s: float | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """The answers; as there, errors are among them with `return_exceptions`."""
        async with asyncio.timeout(timeout_s):
            return [*await asyncio.gather(self._response, return_exceptions=return_exceptions)]


class LocalResponse:
    """A call under way, as `DeploymentResponse`."""

    def __init__(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._task = _start(self._call(method, args, kwargs))

    def __await__(self) -> Generator[Any, None, Any]:
        # Shielded: who waits may leave, and only `cancel` ends the call.
        return asyncio.shield(self._task).__await__()

    def cancel(self) -> None:
        self._task.cancel()

    async def _call(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        return await method(*await _resolved(args), **kwargs)


class LocalStream:
    """A streaming call under way, as `DeploymentResponseGenerator`."""

    def __init__(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._task = _start(self._run(method, args, kwargs))

    async def __anext__(self) -> Any:
        item = await self._items.get()
        if item is not _END:
            return item
        await self._task
        raise StopAsyncIteration

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        try:
            async for item in method(*await _resolved(args), **kwargs):
                self._items.put_nowait(item)
        finally:
            self._items.put_nowait(_END)


_END = object()


def _start(coroutine: Any) -> asyncio.Task[Any]:
    task = asyncio.get_running_loop().create_task(coroutine)
    # An error that nobody awaits, because the caller has gone, is no news.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def _resolved(args: tuple[Any, ...]) -> list[Any]:
    return [await arg if isinstance(arg, LocalResponse) else arg for arg in args]
