"""Which replica gets a work: by what replicas report, and what was sent there since."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.serve.request_router import RequestRouter

from deployments.routing.backlog import STALE_S, Backlogs, Report, called_shape
from deployments.routing.pools import pool_of
from deployments.routing.routers import FinishFirstRouter, LessBusyRouter, PoolMixin
from deployments.wire.tensors import pack_checkpoint
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    LatentJob,
    SamplingParams,
)
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.entry import Entry, work_of
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.job_shape import JobShape
from pipelines.stages.denoiser import DenoiserStage
from tests.jobs import with_sampling

SURFACE = CostSurface(base=0.01, per_token=1e-4)
SHAPE = JobShape(image_tokens=64, segments=1, forwards=10)
JOB = LatentJob(
    work_id="w",
    group="g",
    sampling=SamplingParams(
        height=128, width=128, num_inference_steps=10, guidance_scale=3.5, seed=0
    ),
)


def report(queued_s: float = 0.0, at: float = 1000.0, surface: CostSurface = SURFACE) -> Report:
    return Report(at, queued_s, 36, surface)


def test_a_report_survives_json() -> None:
    assert Report.read(json.loads(json.dumps(report(2.5).stats()))) == report(2.5)
    assert Report.read({}) is None
    assert Report.read({**report().stats(), "of_a_later_version": 1}) is None


def test_a_work_takes_what_it_takes_alone_after_what_is_queued() -> None:
    alone_s = 10 * (0.01 + 1e-4 * 100)
    backlogs = Backlogs()
    assert backlogs.finish_s("a", report(3.0), SHAPE, 1000.0) == pytest.approx(3.0 + alone_s)
    assert backlogs.finish_s("a", report(3.0), SHAPE, 1002.0) == pytest.approx(1.0 + alone_s)
    assert backlogs.finish_s("a", report(3.0), SHAPE, 1004.0) == pytest.approx(alone_s)


def test_what_was_sent_since_the_report_counts_until_it_is_in_one() -> None:
    backlogs = Backlogs()
    backlogs.sent("first", "a", 2.0, 1000.5)
    backlogs.sent("second", "b", 5.0, 1000.5)
    empty_s = report().alone_s(SHAPE)
    assert backlogs.finish_s("a", report(), SHAPE, 1001.0) == pytest.approx(1.0 + empty_s)
    backlogs.moved("second", "a")
    backlogs.moved("unknown", "a")
    assert backlogs.finish_s("a", report(), SHAPE, 1001.0) == pytest.approx(6.0 + empty_s)
    assert backlogs.finish_s("b", report(), SHAPE, 1001.0) == pytest.approx(empty_s)
    later = report(1.5, at=1001.0)  # the work is in its queued seconds
    assert backlogs.finish_s("a", later, SHAPE, 1001.0) == pytest.approx(1.5 + empty_s)


def test_a_work_is_as_large_as_its_tokens_steps_and_images() -> None:
    params = GenerationParams(
        prompt="a", height=128, width=64, num_inference_steps=7, guidance_scale=1.0, seed=1,
        max_sequence_length=36, num_images=3, negative_prompt="b", true_cfg_scale=2.0,
    )  # fmt: skip
    finish = FinishSpec(output_format="png", parameters="", seed=1, store=False, inline=True)
    job = GenerationJob(request_id="r", params=params, finish=finish)
    assert called_shape([job], {}) == JobShape(32, 6, 7)
    assert called_shape([JOB], {}) == SHAPE
    assert called_shape(["ready"], {}) is None
    assert called_shape([], {}) is None
    one, guided = report().alone_s(SHAPE), report().alone_s(SHAPE._replace(segments=2))
    assert guided > one
    assert report().share_s(SHAPE._replace(segments=3)) > 2 * report().share_s(SHAPE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"skips_steps": True},
        {"true_cfg_scale": 2.0, "negative_prompt": "b"},
        {"true_cfg_scale": 2.0},
        {"true_cfg_scale": 2.0, "negative_prompt": "b", "skips_steps": True},
    ],
)
@pytest.mark.parametrize("step", [0, 3])
def test_a_router_counts_what_the_engine_counts(
    dev_like: Path, changes: dict[str, Any], step: int
) -> None:
    stage = DenoiserStage.load(str(dev_like))
    params = replace(
        GenerationParams(
            prompt="a", height=128, width=64, num_inference_steps=10, guidance_scale=1.0, seed=1,
            max_sequence_length=36,
        ),
        **changes,
    )  # fmt: skip
    job = LatentJob.of(params, 0, group="g", work_id="w")
    text = stage.random_conditioning(36)
    trajectory = stage.admit(job, text, text if params.uses_true_cfg else None)
    for _ in range(step):
        stage.tick([trajectory])
    start = stage.checkpoint(trajectory)
    entry = Entry(
        job=job,
        positive=text,
        negative=text if params.uses_true_cfg else None,
        on_step=None,
        on_checkpoint=None,
        future=Future(),
        submitted=0.0,
        start=start if step else None,
    )
    scheduler = Scheduler(cost=SURFACE, max_tokens=10_000, max_works=100)
    scheduler.add(work_of(entry, stage))
    shape = called_shape([job], {"start": pack_checkpoint(start) if step else None})
    assert shape is not None
    assert report().share_s(shape) == pytest.approx(scheduler.queued_s)


_numbers = itertools.count()


class Router(FinishFirstRouter):
    """Without Serve's own state, which a choice does not read."""

    def __init__(self) -> None:
        name = f"pool-{next(_numbers)}"  # of its own, as what is known of one is the process's
        self._deployment_id = cast(Any, SimpleNamespace(app_name="routing", name=name))
        self.initialize_state()
        self.requests: list[Any] = []  # kept, as each is known by its id

    async def choose(self, replicas: list[Any], job: Any = JOB) -> list[list[str]]:
        self.requests.append(
            SimpleNamespace(
                args=[job], kwargs={}, routing_context=SimpleNamespace(should_backoff=False)
            )
        )
        ranks = await self.choose_replicas(replicas, self.requests[-1])
        return [[replica.replica_id.unique_id for replica in rank] for rank in ranks]


def replica(name: str, of: Report | None) -> Any:
    return SimpleNamespace(
        replica_id=SimpleNamespace(unique_id=name), routing_stats=of.stats() if of else {}
    )


def now(**values: Any) -> Report:
    return report(at=time.time(), **values)


def test_a_replica_that_is_gone_is_forgotten() -> None:
    backlogs = Backlogs()
    for name in "ab":
        backlogs.sent(f"to {name}", name, 2.0, 1000.5)
    backlogs.heard({"b": None}, 1001.0)
    empty_s = report().alone_s(SHAPE)
    assert backlogs.finish_s("a", report(), SHAPE, 1000.0) == pytest.approx(empty_s)
    assert backlogs.finish_s("b", report(), SHAPE, 1000.0) == pytest.approx(2.0 + empty_s)
    backlogs.heard({"b": None}, 1001.0 + STALE_S)
    assert backlogs.finish_s("b", report(), SHAPE, 1000.0) == pytest.approx(empty_s)


async def test_the_replica_that_finishes_first_gets_it_and_the_others_are_next() -> None:
    replicas = [replica("a", now(queued_s=9.0)), replica("b", now(queued_s=1.0))]
    router = Router()
    assert await router.choose(replicas) == [["b"], ["a"]]
    assert router.requests[-1].routing_context.should_backoff
    slow = replica("c", now(surface=SURFACE.times(100)))
    assert (await router.choose([*replicas, slow]))[0] == ["b"]


async def test_the_images_of_a_request_are_spread() -> None:
    replicas = [replica(name, now()) for name in "abcd"]
    router = Router()
    first = Counter([(await router.choose(replicas))[0][0] for _ in range(8)])
    assert first == dict.fromkeys("abcd", 2)


async def test_a_large_image_counts_for_more_than_a_small_one() -> None:
    replicas = [replica(name, now()) for name in "ab"]
    router = Router()
    large = with_sampling(JOB, height=512, width=512)
    (busy,), (other,) = await router.choose(replicas, large)
    for _ in range(5):
        assert (await router.choose(replicas))[0] == [other]
    assert busy != other


async def test_what_went_elsewhere_counts_there() -> None:
    replicas = [replica(name, now()) for name in "ab"]
    router = Router()
    large = with_sampling(JOB, height=512, width=512)
    (chosen,), (other,) = await router.choose(replicas, large)
    router.on_request_routed(router.requests[-1], cast(Any, SimpleNamespace(unique_id=other)), None)
    assert (await router.choose(replicas, large))[0] == [chosen]


@pytest.mark.parametrize("stale", [None, report(at=time.time() - STALE_S - 1)])
async def test_without_fresh_reports_serve_chooses_between_two(stale: Report | None) -> None:
    replicas = [replica("a", now()), replica("b", now()), replica("c", stale)]
    (rank,) = await Router().choose(replicas)
    assert len(set(rank)) == 2
    assert await Router().choose(replicas[:1], "no work") == [["a"]]
    assert await Router().choose_replicas([]) == []


@pytest.mark.parametrize("kind", [LessBusyRouter, FinishFirstRouter])
def test_routers_tell_their_process_which_replicas_run(
    kind: type[PoolMixin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestRouter, "update_replicas", lambda *_: None)
    name = f"pool-{next(_numbers)}"
    router: Any = kind.__new__(kind)
    router._deployment_id = SimpleNamespace(app_name="routing", name=name)
    router._replicas = {}
    router.initialize_state()
    pool = pool_of("routing", name)
    assert not pool.cold.is_cold(time.perf_counter())
    router.update_replicas([])
    assert pool.cold.is_cold(time.perf_counter())
    reported = time.time()
    monkeypatch.setattr(time, "time", lambda: reported)
    router.update_replicas([replica("a", now(queued_s=2.0))])
    assert not pool.cold.is_cold(time.perf_counter())
    knows = [queue.queued_s for queue in pool.backlogs.queues(time.time())]
    assert knows == ([pytest.approx(2.0)] if kind is FinishFirstRouter else [])


def test_the_last_report_outlives_its_replica() -> None:
    backlogs = Backlogs()
    assert backlogs.last is None
    backlogs.heard({"a": report(1.0, at=1000.0), "b": report(2.0, at=1001.0)}, 1001.0)
    assert len(backlogs.queues(1001.0)) == 2
    assert [queue.report.at for queue in backlogs.queues(1000.5 + STALE_S)] == [1001.0]
    backlogs.heard({}, 1002.0)
    assert backlogs.queues(1002.0) == []
    assert backlogs.last == report(2.0, at=1001.0)
