"""One replica on several ranks, in real processes, against one rank."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.contracts import Checkpoint, Conditioning, LatentJob, SamplingParams
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.engine import Engine
from pipelines.engine.entry import HandedOver
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.errors import ConfigurationError, StageLost, UnsupportedFeature
from pipelines.parallel.degrees import Degrees
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.traffic import tick_traffic
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.trajectory import Trajectory
from pipelines.stages.vae_decoder import VaeDecoderStage
from pipelines.tasks import Task
from tests.jobs import with_sampling
from tests.pipelines.parallel.ranks import GUARD_S, Workers, begin, replica, settings_for
from tests.tiny_pictures import Case

BOUND = 1e-5
"""Of the largest value, as for one request in a packed batch (`test_transformer.py`)."""

DEGREES = [
    Degrees(tensor=tensor, ulysses=ulysses)
    for tensor, ulysses in [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (2, 2)]
]
JOB = LatentJob(
    work_id="a",
    group="a",
    sampling=SamplingParams(height=64, width=64, num_inference_steps=6, guidance_scale=3.5, seed=3),
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.end()


@pytest.fixture(scope="module")
def one(dev_like: Path) -> DenoiserStage:
    return DenoiserStage.load(str(dev_like))


def texts(stage: DenoiserStage, *lengths: int) -> list[Conditioning]:
    torch.manual_seed(1)
    return [stage.random_conditioning(length) for length in lengths]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative to the largest value."""
    assert theirs.std() > 0.1
    return float((ours - theirs).abs().max() / theirs.abs().max())


class Pair:
    """The same trajectory on several ranks and on one."""

    def __init__(self, stages: tuple[DenoiserStage, DenoiserStage], *admitted: Any) -> None:
        self.stages = stages
        self.both = [stage.admit(*admitted) for stage in stages]

    def cut(self, num_steps: int) -> None:
        for stage, trajectory in zip(self.stages, self.both, strict=True):
            stage.cut(trajectory, num_steps)

    @property
    def difference(self) -> float:
        ours, theirs = self.both
        assert (ours.step, ours.cuts) == (theirs.step, theirs.cuts)
        return difference(ours.latents, theirs.latents)


def tick(stages: tuple[DenoiserStage, DenoiserStage], pairs: list[Pair]) -> list[Pair]:
    """Step all pairs on both sides; those that go on."""
    for side, stage in enumerate(stages):
        stage.tick([pair.both[side] for pair in pairs])
    assert max(pair.difference for pair in pairs) <= BOUND
    return [pair for pair in pairs if not pair.both[0].is_done]


@pytest.mark.parametrize("degrees", DEGREES, ids=lambda d: f"tensor {d.tensor} ulysses {d.ulysses}")
def test_a_mixed_batch_on_several_ranks_equals_one_rank(
    degrees: Degrees, workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    """Sizes down to one image token, text lengths, guidance, pairs, skipped steps, cuts, arrivals,
    departures and a checkpoint; tokens that no number of ranks divides."""
    five, twelve, negative, nine = texts(one, 5, 12, 12, 9)
    with replica(workers, settings_for(dev_like, degrees)) as stage:
        stages = (stage, one)
        pairs = [
            Pair(
                stages, with_sampling(JOB, height=16, width=16, num_inference_steps=3), five, None
            ),
            Pair(stages, with_sampling(JOB, true_cfg_scale=2.0, width=32), twelve, negative),
            Pair(stages, with_sampling(JOB, height=112, num_inference_steps=9), nine, None),
        ]
        skipping = Pair(
            stages, with_sampling(JOB, num_inference_steps=13, skips_steps=True), nine, None
        )
        pairs = tick(stages, pairs)
        pairs = tick(stages, [*pairs, skipping])
        pairs[2].cut(7)
        pairs = tick(stages, pairs)
        start = one.checkpoint(skipping.both[1])
        moved = Pair(stages, skipping.both[1].job, nine, None, start)
        ended = list(pairs)
        pairs = [*(pair for pair in pairs if pair is not skipping), moved]
        while pairs:
            pairs = tick(stages, pairs)
        assert len(ended) == 3
        finished = [pair for pair in [*ended, moved] if pair.both[0].is_done]
        assert len(finished) == 3
        decoder = VaeDecoderStage.load(str(dev_like))
        for pair in finished:
            ours, theirs = (
                decoder.decode([at.finish(item)])[0]
                for at, item in zip(stages, pair.both, strict=True)
            )
            levels = abs(ours.pixels.astype(int) - theirs.pixels.astype(int))  # type: ignore[union-attr]
            assert levels.max() <= 1
            assert (levels == 0).mean() >= 0.999


@pytest.mark.parametrize("degrees", DEGREES[1:], ids=str)
def test_what_is_received_is_what_the_formula_says(
    degrees: Degrees, workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    five, twelve = texts(one, 5, 12)
    with replica(workers, settings_for(dev_like, degrees)) as stage:
        both = [
            stage.admit(JOB, five, None),
            stage.admit(with_sampling(JOB, height=48, width=80), twelve, None),
        ]
        for _ in range(3):
            stage.tick(both)
    shapes = [item.segments[0].shape for item in both]
    model: Any = one._model
    expected = tick_traffic(model.flux.config, shapes, degrees, itemsize=4)
    received = stage.team.mesh.received
    assert {kind: 3 * count for kind, count in expected.items()} == {
        kind: received[kind] for kind in expected
    }
    assert received["orders"] < 3 * 1200


def test_modulation_is_sent_once_for_the_images_of_a_prompt(
    workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    """And again when nobody has it any more: the other ranks forget what rank 0 forgets."""
    (five,) = texts(one, 5)
    with replica(workers, settings_for(dev_like, Degrees(tensor=2))) as stage:
        images: list[Trajectory] = [
            stage.admit(with_sampling(JOB, seed=seed), five, None) for seed in (1, 2, 3)
        ]
        stage.tick(images)
        del images
        gc.collect()
        again = stage.admit(JOB, five, None)
        stage.tick([again])
        assert len(stage._tables_sent) == 1
    (table,) = {segment.vec.nbytes for segment in again.segments}
    rest = sum(part.nbytes for part in (again.latents, again.segments[0].txt))
    received = stage.team.mesh.received["broadcast"]
    assert 0 <= received - (2 * table + 4 * rest) < 64


@pytest.mark.long
def test_compiled_halves_add_up_too(workers: Workers, one: DenoiserStage, dev_like: Path) -> None:
    torch._dynamo.reset()
    five, twelve = texts(one, 5, 12)
    settings = settings_for(dev_like, Degrees(tensor=2), compile=True, compiler="eager")
    with replica(workers, settings) as stage:
        stages = (stage, one)
        pairs = [
            Pair(stages, JOB, five, None),
            Pair(stages, with_sampling(JOB, height=48), twelve, None),
        ]
        tick(stages, pairs[:1])
        tick(stages, pairs)
    torch._dynamo.reset()


def test_heads_that_do_not_divide_are_refused_with_what_works(dev_like: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"3 x ulysses 1 = 3 ranks .* 4 .* \[1, 2, 4\]"):
        ParallelStage.start(settings_for(dev_like, Degrees(tensor=3)))


def test_ranks_that_do_not_come_are_not_waited_for(dev_like: Path) -> None:
    with pytest.raises(StageLost, match="did not meet"):
        ParallelStage.start(settings_for(dev_like, Degrees(tensor=2), start_timeout_s=1.0))


def test_what_a_rank_fails_with_is_heard(workers: Workers, dev_like: Path) -> None:
    settings = settings_for(dev_like, Degrees(ulysses=2))
    (rank,) = workers.take(1)
    rank.be(replace(settings, dtype="float7"), 1)
    with pytest.raises(StageLost, match=r"rank 1: ConfigurationError: dtype: 'float7' is not"):
        ParallelStage.start(settings)
    assert "StageLost" in rank.outcome_of_a_loss()


def test_a_rank_that_dies_while_nothing_is_done_is_noticed(
    workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    stage, ranks = begin(workers, settings_for(dev_like, Degrees(tensor=2)))
    stage.check_health()
    ranks[0].kill()
    wait_for(lambda: stage.team.reason is not None)
    with pytest.raises(StageLost, match="rank 1 is gone"):
        stage.check_health()
    with pytest.raises(StageLost):
        stage.admit(JOB, texts(one, 5)[0], None)
    stage.close()


def test_a_rank_that_is_stuck_takes_its_replica_down(
    workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    stage, ranks = begin(workers, settings_for(dev_like, Degrees(ulysses=2), timeout_s=5.0))
    trajectory = stage.admit(JOB, texts(one, 5)[0], None)
    stage.tick([trajectory])
    ranks[0].freeze()
    before = trajectory.latents.clone()
    with pytest.raises(StageLost):
        stage.tick([trajectory])
    assert trajectory.step == stage.checkpoint(trajectory).step == 1
    assert torch.equal(trajectory.latents, before)
    ranks[0].kill()
    stage.close()


def test_works_of_a_replica_that_loses_a_rank_end_elsewhere_as_the_same_images(
    workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    """Killed in the middle of ticks, and none that rank 0 waits for directly."""
    stage, ranks = begin(workers, settings_for(dev_like, Degrees(tensor=2, ulysses=2)))
    cost = CostSurface(base=0.001, per_token=0, per_square=0, per_segment=0)
    engine = Engine(stage, Scheduler(cost=cost, max_tokens=10_000, max_works=8))
    five, nine = texts(one, 5, 9)
    jobs = [
        replace(with_sampling(JOB, num_inference_steps=100), work_id=name) for name in ("a", "b")
    ]
    last: dict[str, Checkpoint] = {}

    def keep(checkpoint: Checkpoint) -> None:
        last[checkpoint.work_id] = checkpoint

    futures = [
        engine.submit(job, text, None, on_checkpoint=keep)
        for job, text in zip(jobs, (five, nine), strict=True)
    ]
    engine.start()
    wait_for(lambda: len(last) == 2)
    ranks[2].kill()
    for future in futures:
        with pytest.raises(HandedOver):
            future.result(timeout=GUARD_S)
    engine.stop()
    stage.close()
    for rank in ranks[:2]:
        rank.outcome_of_a_loss()
    for job, text in zip(jobs, (five, nine), strict=True):
        start = last[job.work_id]
        assert 0 < start.step < job.sampling.num_inference_steps
        moved, alone = one.admit(job, text, None, start), one.admit(job, text, None)
        for trajectory in (moved, alone):
            while not trajectory.is_done:
                one.tick([trajectory])
        assert difference(moved.latents, alone.latents) <= BOUND


def test_ranks_end_when_rank_0_is_killed(workers: Workers, dev_like: Path) -> None:
    settings = settings_for(dev_like, Degrees(ulysses=2))
    leader, follower = workers.take(2)
    leader.be(settings, 0)
    follower.be(settings, 1)
    assert leader.answer() == "stepping"
    leader.kill()
    assert "StageLost" in follower.outcome_of_a_loss()


def test_the_carried_model_draws_the_same_image_under_torchrun() -> None:
    command = "-m torch.distributed.run --standalone --nproc-per-node 2"
    ours = "-m pipelines.parallel --ulysses 2"
    run = subprocess.run(
        [sys.executable, *command.split(), *ours.split()],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    values = json.loads(run.stdout.splitlines()[-1])
    assert values["max_abs_diff"] <= 1
    assert values["identical_share"] >= 0.999
    assert values["received_by_rank_0"]["all_to_all"] > 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.02)


def test_pictures_that_take_part_in_every_step_are_refused_on_several_ranks(
    workers: Workers, one: DenoiserStage, dev_like: Path
) -> None:
    """One that only says where to start is not: all ranks enter the schedule where it does."""
    start = Case(task=Task.IMAGE_TO_IMAGE, strength=0.6, steps=5)
    masked = Case(task=Task.INPAINT)
    encode = ImageEncoderStage.load(str(dev_like)).encode
    (text,) = texts(one, 5)
    with replica(workers, settings_for(dev_like, Degrees(tensor=2))) as stage:
        stages = (stage, one)
        pair = Pair(stages, start.job, text, None, None, encode(start.prepared))
        assert pair.both[0].num_steps == 3
        with pytest.raises(UnsupportedFeature, match="not drawn on several GPUs") as refused:
            stage.admit(masked.job, text, None, None, encode(masked.prepared))
        assert refused.value.param == "task"
        pairs = [pair]
        while pairs:
            pairs = tick(stages, pairs)
