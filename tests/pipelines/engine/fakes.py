"""A typed stand-in for the denoiser's stage, which walks where the real one would denoise, and
engines over it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch

from pipelines.contracts import (
    Checkpoint,
    Conditioning,
    Cut,
    EncodedPicture,
    LatentJob,
    Latents,
    SamplingParams,
    ServiceTerms,
    TokenGroup,
)
from pipelines.engine.costs.surface import CostModel, CostSurface
from pipelines.engine.engine import Engine
from pipelines.engine.observe.stats import OnTick
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import DegenerateImage
from tests.jobs import with_sampling

TEXT = Conditioning(
    tensors={},
    groups=(TokenGroup("text", 4),),
    num_tokens=2,
    timings={"encode": 0.5},
)
BYTES_PER_TOKEN = 10


@dataclass(kw_only=True)
class Walk:
    """The stand-in's trajectory: what it walked is its latents, step by step."""

    job: LatentJob
    num_steps: int
    step: int = 0
    cuts: tuple[Cut, ...] = ()
    walked: float = 0.0


@dataclass
class FakeStage:
    """Honours `Stepper`, records what it is asked for, can be held at a tick, and fails for the
    seeds that it is told to."""

    ticks: list[tuple[str, ...]] = field(default_factory=list)
    admitted: list[tuple[str, int]] = field(default_factory=list)
    """(work, the step that it began from)."""
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    before_tick: Callable[[Sequence[Walk]], None] | None = None
    bad_admission: int = -1
    bad_tick: int = -1
    bad_checkpoint: int = -1
    bad_finish: int = -1

    def __post_init__(self) -> None:
        self.gate.set()

    def segments(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> tuple[int, ...]:
        tokens = job.sampling.height * job.sampling.width // 256 + positive.sequence_length
        return (tokens,) if negative is None else (tokens, tokens)

    def forwards(self, job: LatentJob) -> int:
        return job.sampling.num_inference_steps

    def trajectory_bytes(
        self, job: LatentJob, positive: Conditioning, negative: Conditioning | None
    ) -> int:
        return BYTES_PER_TOKEN * sum(self.segments(job, positive, negative))

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Walk:
        if job.sampling.seed == self.bad_admission:
            raise TypeError("cannot admit")
        walk = Walk(job=job, num_steps=self.forwards(job))
        if start is not None:
            walk.step, walk.cuts = start.step, start.cuts
            walk.num_steps = start.cuts[-1].num_steps if start.cuts else walk.num_steps
            walk.walked = float(start.latents.sum())
        self.admitted.append((job.work_id, walk.step))
        return walk

    def can_cut(self, job: LatentJob) -> bool:
        return not job.sampling.skips_steps

    def cut(self, trajectory: Walk, num_steps: int) -> None:
        assert trajectory.step < num_steps < trajectory.num_steps
        trajectory.cuts += (Cut(trajectory.step, num_steps),)
        trajectory.num_steps = num_steps

    def tick(self, trajectories: Sequence[Walk]) -> None:
        if self.before_tick is not None:
            self.before_tick(trajectories)
        self.entered.set()
        assert self.gate.wait(60)
        if any(walk.job.sampling.seed == self.bad_tick for walk in trajectories):
            raise RuntimeError("out of memory")
        self.ticks.append(tuple(walk.job.work_id for walk in trajectories))
        for walk in trajectories:
            assert walk.step < walk.num_steps
            walk.step += 1
            walk.walked += walk.job.sampling.seed

    def checkpoint(self, trajectory: Walk) -> Checkpoint:
        if trajectory.job.sampling.seed == self.bad_checkpoint:
            raise DegenerateImage("not finite")
        return Checkpoint(
            work_id=trajectory.job.work_id,
            step=trajectory.step,
            latents=torch.tensor([[trajectory.walked]]),
            cuts=trajectory.cuts,
        )

    def finish(self, trajectory: Walk) -> Latents:
        assert trajectory.step == trajectory.num_steps
        if trajectory.job.sampling.seed == self.bad_finish:
            raise DegenerateImage("not finite")
        return Latents(
            packed=torch.tensor([[trajectory.walked]]),
            height=trajectory.job.sampling.height,
            width=trajectory.job.sampling.width,
            steps_run=trajectory.step,
        )


PACKED = CostSurface(base=1.0, per_token=0.001)
ONE_AT_A_TIME = CostSurface(base=0.0, per_token=0.01)
TOKENS = 20
JOB = LatentJob(
    work_id="a",
    group="a",
    sampling=SamplingParams(height=64, width=64, num_inference_steps=3, guidance_scale=1.0, seed=1),
)


def job(
    name: str, *, deadline_s: float | None = None, refuses: bool = False, **changes: int
) -> LatentJob:
    deadline = None if deadline_s is None else time.time() + deadline_s
    terms = ServiceTerms(deadline=deadline, refuses_late=refuses)
    return replace(with_sampling(JOB, **changes), work_id=name, group=name, terms=terms)


def make_engine(
    stage: FakeStage,
    *,
    surface: CostSurface = PACKED,
    max_bytes: int | None = None,
    cost: CostModel | None = None,
    max_queued_works: int = 5,
    on_tick: OnTick | None = None,
) -> Engine:
    scheduler = Scheduler(
        cost=surface, policy="edf", max_tokens=5 * TOKENS, max_works=4, max_bytes=max_bytes
    )
    return Engine(
        stage,
        scheduler,
        cost=cost,
        checkpoint_every=2,
        max_queued_works=max_queued_works,
        on_tick=on_tick,
    )


def hold(stage: FakeStage, engine: Engine, name: str = "held", **changes: int) -> Future[Latents]:
    """Submit a job and hold the engine in its first tick."""
    stage.gate.clear()
    future = engine.submit(with_sampling(job(name), **changes), TEXT)
    assert stage.entered.wait(60)
    return future
