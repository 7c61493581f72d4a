"""Processes to be ranks in. What takes long is importing torch: that is done once, then forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.parallel.degrees import Degrees
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.team import RankSettings, free_port
from tests.pipelines.parallel.worker import Task, work

HOST = "127.0.0.1"
GUARD_S = 240.0
"""Nothing here takes so long unless it hangs."""


class Worker:
    """One process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([work.__module__])
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=work, args=(end,), daemon=True)
        self._process.start()
        end.close()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def be(self, settings: RankSettings, rank: int) -> None:
        self._pipe.send(Task(settings, rank))

    def answer(self) -> Any:
        """What it says next; None when it ends without a word. Fails when it takes too long."""
        assert self._pipe.poll(GUARD_S), "a rank hangs"
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return None

    def outcome_of_a_loss(self) -> str:
        """What it said, if it had the time, before it ended itself."""
        said = self.answer()
        self._process.join(GUARD_S)
        assert not self.is_alive, "a rank outlives its replica"
        return said or ""

    def kill(self) -> None:
        """SIGKILL, as when a machine runs out of memory."""
        self._process.kill()
        self._process.join()

    def freeze(self) -> None:
        """Alive, and of no use: its connections stay."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def end(self) -> None:
        self.kill()
        self._pipe.close()


class Workers:
    """Up to three processes; one that has died is replaced."""

    def __init__(self) -> None:
        self._workers = [Worker() for _ in range(3)]

    def take(self, count: int) -> list[Worker]:
        for index, worker in enumerate(self._workers):
            if not worker.is_alive:
                worker.end()
                self._workers[index] = Worker()
        return self._workers[:count]

    def end(self) -> None:
        for worker in self._workers:
            worker.end()


def settings_for(source: object, degrees: Degrees, **rest: Any) -> RankSettings:
    port = free_port(HOST)
    return RankSettings(source=str(source), host=HOST, port=port, degrees=degrees, **rest)


def begin(workers: Workers, settings: RankSettings) -> tuple[ParallelStage, Sequence[Worker]]:
    """Rank 0 in this process, the others in theirs."""
    ranks = workers.take(settings.degrees.ranks - 1)
    for rank, worker in enumerate(ranks, start=1):
        worker.be(settings, rank)
    return ParallelStage.start(settings), ranks


@contextmanager
def replica(workers: Workers, settings: RankSettings) -> Generator[ParallelStage]:
    """A stage on several ranks, which all end as they should; its mesh then counts for all."""
    stage, ranks = begin(workers, settings)
    try:
        yield stage
    finally:
        stage.close()
    for worker in ranks:
        answer = worker.answer()
        assert isinstance(answer, dict), answer
        stage.team.mesh.received.update(answer)
