"""What a process of the tests does: be one rank after another, as it is told through a pipe."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from pipelines.contracts import LatentJob, SamplingParams
from pipelines.errors import SluiceError
from pipelines.parallel.rank import run_rank
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.team import RankSettings


class Task(NamedTuple):
    """Be this rank. Rank 0 steps one trajectory until it is killed, and says once that it does."""

    settings: RankSettings
    rank: int


def work(pipe: Connection) -> None:
    """Answer each task with what `run_rank` returns, or the reason why it was lost."""
    torch.set_num_threads(1)
    while True:
        settings, rank = pipe.recv()
        try:
            if rank == 0:
                _lead(settings, pipe)
            pipe.send(dict(run_rank(settings, rank)))
        except SluiceError as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _lead(settings: RankSettings, pipe: Connection) -> None:
    stage = ParallelStage.start(settings)
    job = LatentJob(
        work_id="a",
        group="a",
        sampling=SamplingParams(
            height=64, width=64, num_inference_steps=9999, guidance_scale=1.0, seed=0
        ),
    )
    trajectory = stage.admit(job, stage.random_conditioning(8), None)
    stage.tick([trajectory])
    pipe.send("stepping")
    while True:
        stage.tick([trajectory])
