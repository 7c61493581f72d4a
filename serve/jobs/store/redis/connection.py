"""RedisConnection: calls that end within seconds, and fail with errors of ours.

A password is part of no message: of the location only host, port and database are ever named.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from pipelines.errors import ConfigurationError, StoreUnavailable

logger = logging.getLogger("ray.serve")

Client = Any
"""`redis.asyncio.Redis`, or a pipeline of it. Its own types are those of its blocking twin as well,
so that nothing it answers has one."""

OLDEST = (7, 0)
"""Before it a script that runs out of memory is not undone."""

VERSION = 1

MAX_CONNECTIONS = 32
CONNECT_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 5.0
ANSWER_S = 1.0
"""Of a call's time, what is left for the answer: a write that has not begun by then never does."""

LATE = "LATE"
"""The code of our own refusal (`in_time.lua`)."""

NOT_NOW = (
    LATE,
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
)
"""Codes of answers that say that Redis cannot do now what it could do later."""


class RedisConnection:
    """`prefix` begins every key, in braces: all are in one slot of a cluster."""

    def __init__(self, url: str, *, prefix: str) -> None:
        self.base = f"{{{prefix}}}:"
        self.address = _address(url)
        self._client = _client(url)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._scripts: dict[str, Any] = {}

    async def open(self) -> None:
        """Look whether this Redis can keep jobs. Raises ConfigurationError if it cannot, and
        StoreUnavailable if it does not answer."""
        from redis.exceptions import AuthenticationError, ResponseError

        try:
            server: dict[str, Any] = await self.call(lambda redis: redis.info())
        except StoreUnavailable as error:
            if any(isinstance(each, AuthenticationError) for each in _causes(error)):
                raise ConfigurationError(
                    f"jobs.store: {self.address} does not accept the user name and password"
                ) from error
            raise
        except ResponseError as error:
            raise ConfigurationError(
                f"jobs.store: {self.address} answers INFO with: {error}; give the user name and"
                " password of a user who may"
            ) from error
        self._check(server)
        key = f"{self.base}version"
        version = await self.call(lambda redis: redis.get(key))
        if version is not None and int(version) > VERSION:
            raise ConfigurationError(
                f"jobs.store: {self.address} holds jobs of version {int(version)}, written by a"
                f" newer Sluice; this one knows up to {VERSION}: update it, or use another Redis"
            )
        if version is None:
            await self.call(lambda redis: redis.set(key, VERSION, nx=True))
        if (loss := await self._loss(server)) is not None:
            logger.warning(
                "the job store %s %s; set appendonly yes and appendfsync always there",
                self.address,
                loss,
            )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(self, command: Callable[[Client], Awaitable[Any]]) -> Any:
        """What `command` answers. Raises StoreUnavailable where Redis is away."""
        import redis.exceptions

        async with self._slots:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    return await command(self._client)
            except TimeoutError as error:
                raise self._unavailable(f"no answer in {CALL_TIMEOUT_S:g} s") from error
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                raise self._unavailable(str(error)) from error
            except redis.exceptions.ResponseError as error:
                if _code(error) in NOT_NOW:
                    raise self._unavailable(str(error)) from error
                raise

    async def run(self, name: str, *arguments: str | bytes) -> Any:
        """What the script `name` answers, which begins with the indexes' if it needs them.

        One that writes does so within the time of the call or never: a Redis that stood still
        would else do it when it goes on. StoreUnavailable means that nothing was written, unless
        the connection broke, for good, between the write and its answer.
        """
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._client.register_script(_script(name))
        if name in READING:
            return await self.call(lambda redis: script(keys=[self.base], args=arguments))
        loop = asyncio.get_running_loop()

        async def write_in_time(redis: Client) -> Any:
            ends = loop.time() + CALL_TIMEOUT_S - ANSWER_S
            # By the clock of the server that will write, which says what time it is there now.
            seconds, microseconds = await redis.time()
            left_us = int((ends - loop.time()) * 1e6)
            until = seconds * 1_000_000 + microseconds + left_us
            return await script(keys=[self.base], args=(str(until), *arguments))

        try:
            return await self.call(write_in_time)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, Exception) or _code(error.__cause__) != LATE:
                raise
        # Redis is there, and has written nothing: it was held up on its way, as on a busy machine.
        return await self.call(write_in_time)

    async def all(self, queue: Callable[[Client], object]) -> list[Any]:
        """The answers to all commands that `queue` puts into a pipeline, all of one moment."""
        async with self._client.pipeline(transaction=True) as pipeline:
            queue(pipeline)
            return await self.call(lambda _: pipeline.execute())

    def _check(self, server: dict[str, Any]) -> None:
        version = str(server["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise ConfigurationError(
                f"jobs.store: {self.address} is Redis {version}; jobs need"
                f" {'.'.join(map(str, OLDEST))} or newer"
            )
        policy = server.get("maxmemory_policy", "noeviction")
        if server.get("maxmemory") and policy != "noeviction":
            raise ConfigurationError(
                f"jobs.store: {self.address} forgets keys when its memory is full"
                f" (maxmemory-policy {policy}), and would forget jobs; set it to noeviction"
            )
        if server.get("role") == "slave":
            raise ConfigurationError(
                f"jobs.store: {self.address} is a replica, which cannot write; name its master"
            )

    def key(self, *parts: str) -> str:
        """The name of what is kept under `parts`."""
        return self.base + ":".join(parts)

    async def newest(
        self, keys: Sequence[str], before: tuple[float, str] | None, limit: int
    ) -> list[str]:
        """Ids of all these sorted sets by time, the newest first, that come after `before`."""
        highest = "+inf" if before is None else f"({before[0]!r}"

        def queue(pipe: Client) -> None:
            for key in keys:
                pipe.zrevrangebyscore(key, highest, "-inf", start=0, num=limit, withscores=True)
                if before is not None:  # those of the same time
                    pipe.zrevrangebyscore(key, before[0], before[0], withscores=True)

        found = [
            (created_at, job_id.decode())
            for answer in await self.all(queue)
            for job_id, created_at in answer
        ]
        found = [each for each in found if before is None or each < before]
        return [job_id for _, job_id in sorted(found, reverse=True)[:limit]]

    async def _loss(self, server: Mapping[str, Any]) -> str | None:
        """What becomes of jobs if this Redis is killed; None if they are safe, or nobody may ask.

        Its default, `everysec`, answers before it has written where its disk is busy: for up to two
        seconds (redis.io, "Redis persistence").
        """
        import redis.exceptions

        if server.get("aof_enabled"):
            setting, safe = "appendfsync", "always"
            loss = "loses the jobs of its last seconds if that Redis is killed"
        else:
            setting, safe = "save", None
            loss = "loses the jobs since its last snapshot if that Redis is killed"
        try:
            answer = await self.call(lambda redis: redis.config_get(setting))
        except redis.exceptions.ResponseError:
            return None
        if setting == "save" and not answer.get(setting):
            return "keeps jobs in memory only: a restart of that Redis loses them"
        return None if answer.get(setting) == safe else loss

    def _unavailable(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"the job store {self.address} cannot be used now: {why}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _code(error: Exception) -> str:
    """The first word of Redis's answer, as the client has left it."""
    import redis.exceptions

    known = {
        redis.exceptions.ClusterDownError: "CLUSTERDOWN",
        redis.exceptions.MasterDownError: "MASTERDOWN",
        redis.exceptions.OutOfMemoryError: "OOM",
        redis.exceptions.ReadOnlyError: "READONLY",
    }
    for class_, code in known.items():
        if isinstance(error, class_):
            return code
    return str(error).partition(" ")[0]


DATABASE = re.compile(r"(/\d*)?")


def _address(url: str) -> str:
    """The URL without user name, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
        if parts.scheme != "unix" and not DATABASE.fullmatch(parts.path):
            raise ValueError("a database is a number")
    except ValueError:
        # From nothing: the message may hold a part of the password.
        raise ConfigurationError(
            "jobs.store: not a URL of a Redis: redis://HOST:PORT/DATABASE; in a password, / ? # and"
            " @ are written %2F %3F %23 and %40"
        ) from None
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _client(url: str) -> Client:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff
    except ImportError as error:
        raise ConfigurationError(
            "jobs.store: for redis:// the Redis client is needed: pip install 'sluice[redis]'"
        ) from error
    try:
        pool: Client = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=CALL_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        )
    except ValueError:
        raise ConfigurationError(
            f"jobs.store: {_address(url)} is not a URL of a Redis: redis://HOST:PORT/DATABASE"
        ) from None
    return Redis.from_pool(pool)


READING = frozenset({"next", "waiting", "active"})
WITH_INDEXES = frozenset({"save", "delete", "next", "waiting", "active"})


def _script(name: str) -> str:
    folder = files("serve.jobs.store.redis")
    parts = ["#!lua flags=no-writes" if name in READING else "#!lua"]
    if name not in READING:
        parts.append(folder.joinpath("in_time.lua").read_text("utf-8"))
    if name in WITH_INDEXES:
        parts.append(folder.joinpath("indexes.lua").read_text("utf-8"))
    else:
        parts.append("local base = KEYS[1]")
    parts.append(folder.joinpath(f"{name}.lua").read_text("utf-8"))
    return "\n".join(parts)
