from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from ray.serve.handle import DeploymentBroadcastResponse

from deployments.broadcast import ask_all_replicas


class Replica:
    """Answers, as Serve has it, once it may."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.may = asyncio.Event()
        self.has_answered = False

    async def get_async(self) -> object:
        await self.may.wait()
        self.has_answered = True
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Handle:
    """Of these replicas; its broadcasts wait as Serve's own do."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = replicas

    def broadcast(self, method: str, *arguments: object) -> DeploymentBroadcastResponse:
        response = DeploymentBroadcastResponse.__new__(DeploymentBroadcastResponse)

        async def replicas() -> list[Replica]:
            return [*self.replicas]

        response._fetch_replica_results_async = replicas  # type: ignore[method-assign]
        return response


def asked(handle: Handle, timeout_s: float = 60.0) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(ask_all_replicas(handle, "load", timeout_s=timeout_s))  # type: ignore[arg-type]


async def test_each_answers_or_has_its_error() -> None:
    lost = RuntimeError("lost")
    replicas = Replica("a"), Replica(lost)
    asking = asked(Handle(*replicas))
    for replica in replicas:
        replica.may.set()
    assert await asking == ["a", lost]


async def test_those_that_do_not_answer_in_time_are_not_waited_for() -> None:
    with pytest.raises(TimeoutError):
        await asked(Handle(Replica("a")), timeout_s=0.01)


async def test_who_leaves_leaves_no_error_behind() -> None:
    """As seen: `_GatheringFuture exception was never retrieved`, with its traceback."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    replica = Replica("a")
    asking = asked(Handle(replica))
    await asyncio.sleep(0.01)  # until it waits for the replica
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    del asking
    replica.may.set()
    for _ in range(10):  # for all that follows
        await asyncio.sleep(0)
    gc.collect()
    assert left == []
    assert replica.has_answered
