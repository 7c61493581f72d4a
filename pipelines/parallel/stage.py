"""Rank 0: a denoiser stage whose every step is taken by all ranks.

The engine cannot tell it from a `DenoiserStage`. It decides, checks and makes modulation alone;
then it tells the other ranks what to do and does its own part of it. All ranks hold the same
latents, so a checkpoint or a result needs nobody else.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from pipelines.begin import NO_PICTURES
from pipelines.contracts import Checkpoint, Conditioning, EncodedPicture, LatentJob
from pipelines.errors import StageLost, UnsupportedFeature
from pipelines.flux1 import memory as footprint
from pipelines.flux1.checkpoint import open_transformer
from pipelines.flux1.model import FluxModel
from pipelines.parallel.commands import Admit, Command, Order, Recut, Stop, Table, Tick, encode
from pipelines.parallel.flux import ParallelFlux
from pipelines.parallel.team import RankSettings, Team, connect
from pipelines.parallel.weights import load_transformer
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory


class ParallelStage(DenoiserStage):
    """Rank 0 of a replica on several ranks. For one thread, but for `check_health` and `lose`.

    Once a rank is gone, or anything failed that all do together, every call that needs the others
    raises StageLost; `checkpoint` and `finish` still work.
    """

    def __init__(
        self,
        flux: ParallelFlux,
        scheduler_config: dict[str, Any],
        team: Team,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(FluxModel(flux, scheduler_config))
        self._flux = flux
        self.team = team
        self._timeout_s = timeout_s
        # What rank 0's memory has let go of, the others let go of at the next command.
        self._dropped: deque[int] = deque()
        self._numbers = WeakIdKeyDictionary()
        self._table_numbers = WeakIdKeyDictionary()
        self._tables_sent: dict[int, frozenset[int]] = {}
        self._counter = count(1)

    @classmethod
    def start(cls, settings: RankSettings) -> ParallelStage:
        """Meet the other ranks (`rank.run_rank`) and load; returns when all are ready.

        Raises CheckpointError, ConfigurationError, StageLost.
        """
        files = open_transformer(settings.source)
        settings.degrees.check(files.config["num_attention_heads"])
        team = connect(settings, 0)
        try:
            transformer = load_transformer(files, team.mesh, settings.dtype)
            if team.board is not None:
                team.board.wait_ready(settings.start_timeout_s)
                team.board.watch(team.lose, team.is_late)
            with team.together(settings.start_timeout_s):
                flux = ParallelFlux(
                    transformer,
                    team.mesh,
                    attention=settings.attention,
                    compile=settings.compile,
                    compiler=settings.compiler,
                )
        except BaseException:  # re-raised: whoever stops here must not keep the others waiting
            team.close()
            raise
        return cls(flux, files.scheduler_config, team, timeout_s=settings.timeout_s)

    def check_health(self) -> None:
        """Raises StageLost if a rank is gone. From any thread."""
        self.team.check()

    def lose(self, reason: str) -> None:
        """Take the replica for lost, for a reason that somebody else knows. From any thread."""
        self.team.lose(reason)

    def close(self) -> None:
        """Let the other ranks go, if they are there. The stage cannot be used afterwards."""
        if self.team.board is not None and self.team.reason is None:
            with suppress(StageLost):  # somebody has gone already
                self.team.board.dismiss(encode(Order(Stop(), ())))
        self.team.close()

    def tick_bytes(self, tokens: int) -> int:
        """Device memory of a tick over `tokens` at its peak, on the rank that needs most."""
        degrees, flux = self.team.mesh.degrees, self._flux
        return footprint.tick_bytes(
            flux.config,
            tokens=tokens,
            itemsize=flux.dtype.itemsize,
            tensor=degrees.tensor,
            ulysses=degrees.ulysses,
        )

    @torch.inference_mode()
    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Trajectory:
        """As one device does, but for tasks whose pictures take part in every step: those raise
        UnsupportedFeature."""
        trajectory = super().admit(job, positive, negative, start, pictures)
        if trajectory.pictures is not NO_PICTURES:
            raise UnsupportedFeature(
                f"task: {job.sampling.task} with such pictures is not drawn on several GPUs; ask a"
                " server whose denoiser has one for each replica",
                param="task",
            )
        number = next(self._counter)
        with self.team.together(self._timeout_s):
            dropped = self._forget()
            tables = self._tables_of(trajectory, number)
            command = Admit(
                number=number,
                job=job,
                step=trajectory.step,
                cuts=trajectory.cuts,
                text_tokens=trajectory.segments[0].shape.text,
                image_tokens=trajectory.image_tokens,
                has_velocity=trajectory.velocity is not None,
                tables=tables,
            )
            self._tell(command, dropped)
            self._send(trajectory.latents, trajectory.velocity)
            for segment, table in zip(trajectory.segments, tables, strict=True):
                self._send(segment.txt, segment.vec if table.is_new else None)
        self._numbers[trajectory] = number
        weakref.finalize(trajectory, self._dropped.append, number).atexit = False
        return trajectory

    @torch.inference_mode()
    def cut(self, trajectory: Trajectory, num_steps: int) -> None:
        super().cut(trajectory, num_steps)
        number = self._numbers[trajectory]
        with self.team.together(self._timeout_s):
            dropped = self._forget()
            tables = self._tables_of(trajectory, number)
            self._tell(Recut(number=number, cut=trajectory.cuts[-1], tables=tables), dropped)
            for segment, table in zip(trajectory.segments, tables, strict=True):
                self._send(segment.vec if table.is_new else None)

    def tick(self, trajectories: Sequence[Trajectory]) -> None:
        with self.team.together(self._timeout_s):
            numbers = tuple(self._numbers[item] for item in trajectories)
            self._tell(Tick(numbers=numbers), self._forget())
            super().tick(trajectories)

    def _velocities(self, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
        velocities = super()._velocities(trajectories)
        if self._flux.device.type == "cuda":
            # A collective that was aborted leaves garbage, and says nothing.
            torch.cuda.synchronize(self._flux.device)
        self.team.check()
        return velocities

    def _forget(self) -> tuple[int, ...]:
        """The trajectories that are gone since the last command."""
        gone = tuple(self._dropped.popleft() for _ in range(len(self._dropped)))
        for number in gone:
            del self._tables_sent[number]
        return gone

    def _tables_of(self, trajectory: Trajectory, number: int) -> tuple[Table, ...]:
        """The trajectory's modulation, new unless one that the others keep has it as well."""
        known = set(chain.from_iterable(self._tables_sent.values()))
        tables: list[Table] = []
        for segment in trajectory.segments:
            if segment.vec not in self._table_numbers:
                self._table_numbers[segment.vec] = next(self._counter)
            table = self._table_numbers[segment.vec]
            tables.append(Table(table, len(segment.vec), table not in known))
            known.add(table)
        self._tables_sent[number] = frozenset(table.number for table in tables)
        return tuple(tables)

    def _tell(self, command: Command, dropped: tuple[int, ...]) -> None:
        if self.team.board is not None:
            self.team.board.send(encode(Order(command, dropped)))

    def _send(self, *tensors: torch.Tensor | None) -> None:
        for tensor in tensors:
            if tensor is not None:
                self.team.mesh.broadcast(tensor.contiguous())
