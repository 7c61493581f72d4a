"""The ranks of one replica as one of them sees them: grid, lines, and whether all are there."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group
from torch.distributed.rendezvous import rendezvous

from pipelines.devices import resolve_device
from pipelines.errors import ConfigurationError, StageLost
from pipelines.parallel.degrees import Degrees
from pipelines.parallel.line import INVITATION_BYTES, Line, Switchboard, call
from pipelines.parallel.mesh import RankMesh

logger = logging.getLogger(__name__)

_PARTING_S = 5.0
"""How long rank 0 waits at the end for the others to go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """What all ranks of a replica are started with, alike: plain values, so it can be sent.

    `host` and `port` are where rank 0 is met: an address of its own, and a port that is free
    there. A rank computes on `device`: `cpu`, or the GPU that it has for itself.
    """

    source: str
    host: str
    port: int
    degrees: Degrees
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    compile: bool = False
    compiler: str = "inductor"
    timeout_s: float = 60.0
    """For an admission, a tick, and one collective: past that, a rank that is stuck (not dead: that
    is noticed at once) takes the replica down."""
    start_timeout_s: float = 600.0
    """Until all ranks have met, again until all have their weights, and again to compile."""


@dataclass(slots=True, kw_only=True)
class Team:
    """One rank's view. `board` is rank 0's, `line` another rank's."""

    mesh: RankMesh
    board: Switchboard | None = None
    line: Line | None = None
    reason: str | None = None
    """Why the team is lost, once it is."""
    on_loss: Callable[[], None] = lambda: None
    """Called when it is, from the thread that noticed."""
    _once: threading.Lock = field(default_factory=threading.Lock)
    _deadline: float = math.inf

    def lose(self, reason: str) -> None:
        """Hang up, so that nobody waits for this rank. The first reason counts.

        From any thread. On GPUs it also ends the collective that this rank waits in; gloo's ends by
        itself when a peer does.
        """
        with self._once:
            if self.reason is not None:
                return
            self.reason = reason
        logger.error("rank %d: %s", self.mesh.rank, reason)
        if self.board is not None:
            self.board.hang_up()
        if self.line is not None:
            self.line.part(reason)
        self.on_loss()
        if self.mesh.device.type == "cuda":
            _abort_process_group()

    def check(self) -> None:
        """Raises StageLost if the team is lost."""
        if self.reason is not None:
            raise self._error()

    @contextmanager
    def together(self, within_s: float) -> Generator[None]:
        """What all ranks do alike. If it fails here, the others wait in vain: the team is lost.

        It is also lost where that takes longer than `within_s`. Raises StageLost, then and from
        then on.
        """
        self.check()
        self._deadline = time.monotonic() + within_s
        try:
            yield
        except Exception as error:  # the edge of this rank: the others wait for it in vain
            self.lose(f"{type(error).__name__}: {error}")
            raise self._error() from error
        finally:
            self._deadline = math.inf

    def is_late(self) -> bool:
        """Whether what all do together takes too long."""
        return time.monotonic() > self._deadline

    def close(self) -> None:
        """Leave: the lines, and torch's process group."""
        if self.board is not None:
            self.board.close(_PARTING_S)
        if self.line is not None:
            self.line.hang_up()
            self.line.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _error(self) -> StageLost:
        return StageLost(f"the denoiser has lost its ranks: {self.reason}", stage="Denoiser")


def connect(settings: RankSettings, rank: int) -> Team:
    """Meet the other ranks; returns when all are there.

    Raises ConfigurationError, StageLost when they do not come in time.
    """
    if dist.is_initialized():
        raise ConfigurationError(
            "parallel: torch.distributed is in use in this process already; a rank needs one of its"
            " own"
        )
    device = resolve_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Or its watchdog ends the process with its works; `Team.lose` ends the collective alone.
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    url = f"tcp://{settings.host}:{settings.port}"
    start = timedelta(seconds=settings.start_timeout_s)
    try:
        store, _, _ = next(rendezvous(url, rank, settings.degrees.ranks, timeout=start))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=settings.degrees.ranks,
            timeout=timedelta(seconds=settings.timeout_s),
        )
        mesh = RankMesh(settings.degrees, device)
        return _call_each_other(mesh, settings)
    except (RuntimeError, OSError, StageLost) as error:
        if dist.is_initialized():
            dist.destroy_process_group()
        raise StageLost(f"the ranks did not meet at {url}: {error}", stage="Denoiser") from error


def free_port(host: str) -> int:
    """A port that was free on `host`, an address of this machine, a moment ago."""
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def _call_each_other(mesh: RankMesh, settings: RankSettings) -> Team:
    invitation = torch.zeros(INVITATION_BYTES, dtype=torch.uint8, device=mesh.device)
    if mesh.rank:
        mesh.broadcast(invitation)
        known = bytes(invitation.tolist())
        return Team(mesh=mesh, line=call(settings.host, known, mesh.rank, settings.timeout_s))
    board = Switchboard(settings.host, settings.degrees.ranks - 1)
    invitation.copy_(torch.tensor(list(board.invitation), dtype=torch.uint8))
    mesh.broadcast(invitation)
    board.accept(settings.timeout_s)
    return Team(mesh=mesh, board=board)
