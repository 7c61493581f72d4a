"""Requests played on real engines over a real stage, to a script of ticks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import cached_property

import torch

from pipelines.contracts import Checkpoint, Conditioning, EncodedPicture, LatentJob, Latents
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.engine import Engine, HandedOver
from pipelines.engine.scheduling.policies import Policy
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.families import FlowModel
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory

SMALL_KNEE = CostSurface(base=0.15, per_token=0.85 / 60)
"""A tick of two or three works, or of one large one."""
NEVER = 10_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job with its conditionings, and when it comes and goes, in ticks of the first engine."""

    job: LatentJob
    text_tokens: int
    is_guided: bool
    comes: int
    is_cancelled: int = NEVER

    @property
    def seed(self) -> int:
        return self.job.sampling.seed

    @cached_property
    def positive(self) -> Conditioning:
        return conditioning(self.seed, self.text_tokens)

    @cached_property
    def negative(self) -> Conditioning | None:
        return conditioning(self.seed + 1000, self.text_tokens) if self.is_guided else None


def conditioning(seed: int, tokens: int) -> Conditioning:
    """Random text of the tiny model's widths."""
    generator = torch.Generator().manual_seed(seed)
    tensors = PromptTensors(
        prompt_embeds=torch.randn(tokens, 40, generator=generator),
        pooled_prompt_embeds=torch.randn(24, generator=generator),
    )
    return tensors.conditioning(num_tokens=tokens)


class ScriptedStage(DenoiserStage):
    """The real stage; what `before_tick` does happens at a known tick, in the engine's thread."""

    def __init__(self, model: FlowModel) -> None:
        super().__init__(model)
        self.listen(None)

    def listen(self, before_tick: Callable[[int], None] | None) -> None:
        """Begin anew: forget what was recorded."""
        self.before_tick = before_tick
        self.ticks: list[tuple[str, ...]] = []
        self.resumed: list[str] = []

    def admit(
        self,
        job: LatentJob,
        positive: Conditioning,
        negative: Conditioning | None,
        start: Checkpoint | None = None,
        pictures: Sequence[EncodedPicture] = (),
    ) -> Trajectory:
        if start is not None:
            self.resumed.append(job.work_id)
        return super().admit(job, positive, negative, start, pictures)

    def tick(self, trajectories: Sequence[Trajectory]) -> None:
        if self.before_tick is not None:
            self.before_tick(len(self.ticks))
        self.ticks.append(tuple(item.job.work_id for item in trajectories))
        super().tick(trajectories)


@dataclass
class Play:
    """Plays requests on an engine, hands them over at a tick, and ends them on a second one."""

    stages: Sequence[ScriptedStage]
    requests: Sequence[Request]
    policy: Policy
    hand_over_at: int = NEVER
    ticks: Sequence[tuple[str, ...]] = ()
    resumed: Sequence[str] = ()
    """Works that went on from a checkpoint."""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    futures: dict[str, Future[Latents]] = field(default_factory=dict)

    def run(self) -> dict[str, Latents]:
        """The latents of all that were not cancelled."""
        first, second = (self._engine(stage) for stage in self.stages)
        self.stages[0].listen(lambda tick: self._script(first, tick))
        self.stages[1].listen(None)
        try:
            for request in self.requests:
                if request.comes == 0:
                    self._submit(first, request)
            first.start()
            self._wait()
            second.start()
            for request in self.requests:
                future = self.futures.get(request.job.work_id)
                if future is None or isinstance(_error(future), HandedOver):
                    self._submit(second, request)
            self._wait()
        finally:
            first.stop()
            second.stop()
        self.ticks = [tick for stage in self.stages for tick in stage.ticks]
        self.resumed = [name for stage in self.stages for name in stage.resumed]
        return {
            name: future.result() for name, future in self.futures.items() if not _error(future)
        }

    def _script(self, engine: Engine, tick: int) -> None:
        if tick == self.hand_over_at:
            engine.hand_over()
        for request in self.requests:
            if request.comes == tick > 0 and tick < self.hand_over_at:
                self._submit(engine, request)
            if request.is_cancelled == tick:
                engine.cancel(request.job.work_id)

    def _submit(self, engine: Engine, request: Request) -> None:
        self.futures[request.job.work_id] = engine.submit(
            request.job,
            request.positive,
            request.negative,
            start=self.checkpoints.get(request.job.work_id),
            on_checkpoint=lambda item: self.checkpoints.update({item.work_id: item}),
        )

    def _wait(self) -> None:
        """Until all are done, those included that come meanwhile."""
        while pending := [each for each in list(self.futures.values()) if not each.done()]:
            _error(pending[0])

    def _engine(self, stage: DenoiserStage) -> Engine:
        weights = [
            stage.trajectory_bytes(each.job, each.positive, each.negative) for each in self.requests
        ]
        scheduler = Scheduler(
            cost=SMALL_KNEE,
            policy=self.policy,
            max_tokens=NEVER,
            max_works=4,
            max_bytes=max(max(weights), sum(weights) // 3),
        )
        return Engine(stage, scheduler, checkpoint_every=2)


def _error(future: Future[Latents]) -> BaseException | None:
    """What a future ended with, other than latents. Anything unexpected is raised."""
    try:
        error = future.exception(60)
    except CancelledError as cancelled:
        return cancelled
    if error is None or isinstance(error, HandedOver):
        return error
    raise error
