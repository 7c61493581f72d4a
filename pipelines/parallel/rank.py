"""A further rank: does what rank 0 tells it, in the same order, until it is told to stop."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, assert_never
from weakref import WeakValueDictionary

import torch

from pipelines.flux1.checkpoint import open_transformer
from pipelines.flux1.memory import modulation_width
from pipelines.flux1.model import FluxModel
from pipelines.packing.layout import SegmentShape
from pipelines.parallel.commands import Admit, Order, Recut, Stop, Table, Tick, decode
from pipelines.parallel.flux import ParallelFlux
from pipelines.parallel.line import READY, Line
from pipelines.parallel.team import RankSettings, Team, connect
from pipelines.parallel.weights import load_transformer
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Segment, Trajectory

_GRACE_S = 0.3
"""Once the team is lost, for last words; then the process ends itself."""


def run_rank(settings: RankSettings, rank: int) -> Counter[str]:
    """Be this rank of a replica, for as long as rank 0 wants it: what was received, by kind.

    Raises CheckpointError, ConfigurationError, and StageLost when another rank is gone or this one
    fails. In that case the process ends `_GRACE_S` later: nobody needs it any more, and only its
    end is sure to wake who waits for it in a collective.
    """
    files = open_transformer(settings.source)
    settings.degrees.check(files.config["num_attention_heads"])
    team = connect(settings, rank)
    team.on_loss = _end_process_soon
    assert team.line is not None
    arrived: SimpleQueue[Order | None] = SimpleQueue()
    threading.Thread(
        target=_read, args=(team, team.line, arrived), name="sluice-orders", daemon=True
    ).start()
    try:
        with team.together(math.inf):  # rank 0 watches the time
            transformer = load_transformer(files, team.mesh, settings.dtype)
            team.line.send(READY)
            flux = ParallelFlux(
                transformer,
                team.mesh,
                attention=settings.attention,
                compile=settings.compile,
                compiler=settings.compiler,
            )
        stage = RankStage(flux, files.scheduler_config, team)
        stage.follow(_until_stop(team, arrived))
        return team.mesh.received
    finally:
        team.close()


class RankStage(DenoiserStage):
    """The trajectories of rank 0, on another rank."""

    def __init__(self, flux: ParallelFlux, scheduler_config: dict[str, Any], team: Team) -> None:
        super().__init__(FluxModel(flux, scheduler_config))
        self._flux = flux
        self._team = team
        self._trajectories: dict[int, Trajectory] = {}
        # A table lives as long as a trajectory that has it, as it does on rank 0.
        self._received: WeakValueDictionary[int, torch.Tensor] = WeakValueDictionary()

    def follow(self, orders: Iterator[Order]) -> None:
        """Do all that is ordered. Raises StageLost."""
        for order in orders:
            with self._team.together(math.inf):
                for number in order.dropped:
                    del self._trajectories[number]
                self._obey(order)

    @torch.inference_mode()
    def _obey(self, order: Order) -> None:
        match order.command:
            case Tick(numbers=numbers):
                self.tick([self._trajectories[number] for number in numbers])
            case Admit() as admit:
                self._trajectories[admit.number] = self._adopt(admit)
            case Recut() as recut:
                self._recut(self._trajectories[recut.number], recut)
            case Stop():
                pass
            case unknown:
                assert_never(unknown)

    def _adopt(self, admit: Admit) -> Trajectory:
        job, sampling, channels = admit.job, admit.job.sampling, self._model.latent_width
        shape = SegmentShape(admit.text_tokens, admit.image_tokens)
        latents = self._receive(shape.image, channels)
        velocity = self._receive(shape.image, channels) if admit.has_velocity else None
        width = self._flux.transformer.inner_dim
        rope = self._tables.rotary(shape.text, sampling.height, sampling.width)
        segments = [
            # Only rank 0 makes modulation, from the pooled text.
            Segment(self._receive(shape.text, width), None, self._table(table), shape, rope)
            for table in admit.tables
        ]
        return Trajectory(
            job=job,
            schedule=self._tables.schedule_after(
                sampling, (*sampling.planned_cuts, *admit.cuts), shape.image
            ),
            segments=tuple(segments),
            latents=latents,
            step=admit.step,
            cuts=admit.cuts,
            velocity=velocity,
        )

    def _recut(self, trajectory: Trajectory, recut: Recut) -> None:
        trajectory.schedule = self._model.cut_schedule(
            trajectory.schedule, recut.cut, trajectory.image_tokens
        )
        trajectory.cuts = (*trajectory.cuts, recut.cut)
        trajectory.segments = tuple(
            segment._replace(vec=self._table(table))
            for segment, table in zip(trajectory.segments, recut.tables, strict=True)
        )

    def _table(self, table: Table) -> torch.Tensor:
        if not table.is_new:
            return self._received[table.number]
        vec = self._receive(table.rows, modulation_width(self._flux.config))
        self._received[table.number] = vec
        return vec

    def _receive(self, *shape: int) -> torch.Tensor:
        empty = torch.empty(shape, dtype=self._flux.dtype, device=self._flux.device)
        return self._team.mesh.broadcast(empty)


def _until_stop(team: Team, arrived: SimpleQueue[Order | None]) -> Iterator[Order]:
    """All orders, up to the last one. Raises StageLost when none can come any more."""
    while (order := arrived.get()) is not None:
        yield order
        if isinstance(order.command, Stop):
            return
    team.check()


def _read(team: Team, line: Line, arrived: SimpleQueue[Order | None]) -> None:
    """Read ahead, and so notice when rank 0 is gone, whatever the other thread waits for."""
    try:
        while True:
            frame = line.receive()
            team.mesh.received["orders"] += len(frame)
            order = decode(frame)
            arrived.put(order)
            if isinstance(order.command, Stop):
                return
    except EOFError:
        team.lose("rank 0 is gone")
        arrived.put(None)


def _end_process_soon() -> None:
    timer = threading.Timer(_GRACE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
