"""The declared metrics: named well, in the README as they are, and each recorded somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import deployments
from deployments.metrics import declared as metrics
from deployments.metrics.instruments import Counter, Growth, Histogram, Metric, TenantLabels
from deployments.options.stages import DenoiserOptions
from deployments.stages.engine_metrics import EngineMetrics
from pipelines.batching.demand import Demand
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.engine.observe.stats import EngineStats, RanTick
from tests.recorder import Recorder, recorded

__all__ = ["recorded"]

PACKAGES = Path(deployments.__file__).parent.parent
README = (PACKAGES / "deployments" / "README.md").read_text("utf-8")
SURFACE = CostSurface(base=0.01, per_token=0.001)


def row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    return f"| `{metric.exposed}` | {metric.kind} | {labels} | {metric.where} | {metric.help} |"


def test_the_table_of_the_readme_is_what_is_declared() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `ray_sluice_")]
    assert rows == [row(metric) for metric in metrics.METRICS]


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: Metric) -> None:
    assert re.fullmatch(r"sluice_[a-z]+(_[a-z]+)*", metric.name)
    assert not metric.name.endswith(("_total", "_ms", "_count", "_sum", "_bucket"))
    assert not set(metric.labels) & {"deployment", "replica", "application", "route_prefix"}
    assert not set(metric.labels) & {"prompt", "request", "trace", "user", "id"}
    if isinstance(metric, Histogram):
        assert list(metric.boundaries) == sorted(set(metric.boundaries))
        assert metric.boundaries[0] > 0
    if isinstance(metric, Counter):
        assert metric.exposed.endswith("_total")


def test_no_name_is_declared_twice() -> None:
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS) > 30


def test_each_is_recorded_in_one_place_or_more() -> None:
    sources = [
        path.read_text("utf-8")
        for package in ("deployments", "serve")
        for path in (PACKAGES / package).rglob("*.py")
    ]
    names = [name for name, value in vars(metrics).items() if isinstance(value, Metric)]
    silent = [
        name
        for name in names
        if not any(re.search(rf"\bmetrics\.{name}\.(add|set|observe)\(", text) for text in sources)
    ]
    assert silent == []


def test_outside_of_a_replica_nothing_happens() -> None:
    metrics.REQUESTS.add(outcome="ok")
    metrics.WORKS.set(3)
    metrics.TICK_SECONDS.observe(0.1)


def test_tenants_are_few_short_and_printable() -> None:
    labels = TenantLabels(limit=2)
    assert labels.of("") == "none"
    assert labels.of("an\nna\ud800") == "an?na?"
    assert labels.of("b" * 300) == "b" * 64
    assert labels.of("c") == "other"
    assert labels.of("an\nna\ud800") == "an?na?"


def test_growth_is_since_the_last_time() -> None:
    growth = Growth()
    assert growth.of({"a": 3, "b": 1}) == {"a": 3, "b": 1}
    assert growth.of({"a": 5, "b": 1}) == {"a": 2, "b": 0}


def stats(**changes: object) -> EngineStats:
    nothing = EngineStats(
        works=0,
        queued_s=0.0,
        ticks=0,
        steps=0,
        preempted=0,
        busy_s=0.0,
        finished=0,
        cancelled=0,
        saved_steps={"cancelled": 0, "cut": 0, "skipped": 0},
        policy="edf",
        cost=SURFACE,
    )
    return nothing._replace(**changes)


def test_an_engine_tells_what_was_done_since_the_last_time(recorded: Recorder) -> None:
    told = EngineMetrics(DenoiserOptions(), 20)
    saved = {"cancelled": 7, "cut": 2, "skipped": 0}
    told.publish(stats(works=4, ticks=10, steps=30, preempted=1, cancelled=1, saved_steps=saved))
    told.publish(stats(works=2, ticks=12, steps=34, preempted=1, cancelled=1, saved_steps=saved))
    assert recorded.values(metrics.TICKS) == [10, 2]
    assert recorded.values(metrics.STEPS) == [30, 4]
    assert recorded.values(metrics.PREEMPTIONS) == [1]
    assert recorded.values(metrics.CANCELLED_IMAGES) == [1]
    assert recorded.values(metrics.SAVED_STEPS, reason="cancelled") == [7]
    assert recorded.values(metrics.SAVED_STEPS, reason="cut") == [2]
    assert recorded.values(metrics.WORKS) == [4, 2]
    assert recorded.values(metrics.KNEE_SECONDS) == [SURFACE.knee] * 2
    assert recorded.values(metrics.KNEE_TOKENS) == [SURFACE.knee_tokens(20)] * 2


def test_a_tick_is_shared_out_by_what_its_works_cost(recorded: Recorder) -> None:
    told = EngineMetrics(DenoiserOptions(), 20)
    works = (("anna", Load.of([30])), ("ben", Load.of([5, 5])), ("anna", Load.of([10])))
    told.ticked(RanTick(1.0, works))
    told.ticked(RanTick(0.5, (("", Load.of([8])),)))
    told.publish(stats(ticks=2))
    assert recorded.values(metrics.TICK_SECONDS) == [1.0, 0.5]
    assert recorded.values(metrics.TICK_TOKENS) == [50, 8]
    assert recorded.values(metrics.TICK_SEGMENTS) == [4, 1]
    assert recorded.total(metrics.TOKENS) == 58
    seconds = {
        labels["tenant"]: recorded.total(metrics.DEVICE_SECONDS, **labels)
        for labels in recorded.labels(metrics.DEVICE_SECONDS)
    }
    assert seconds == pytest.approx({"anna": 0.8, "ben": 0.2, "none": 0.5})
    told.publish(stats(ticks=2))
    assert recorded.total(metrics.TOKENS) == 58


def test_recent_ticks_are_those_of_the_last_seconds(recorded: Recorder) -> None:
    told = EngineMetrics(DenoiserOptions(), 20)
    assert (told.recent.mean_tokens, told.recent.mean_s) == (None, None)
    told.ticked(RanTick(1.0, (("anna", Load.of([30])),)))
    told.ticked(RanTick(0.5, (("", Load.of([10, 20])),)))
    told.publish(stats(ticks=2))
    assert (told.recent.ticks, told.recent.mean_tokens, told.recent.mean_s) == (2, 30, 0.75)
    told.ticked(RanTick(3.0, (("anna", Load.of([90])),)))
    told.publish(stats(ticks=3))
    assert (told.recent.mean_tokens, told.recent.mean_s) == (50, 1.5)
    for _ in range(10):
        told.publish(stats(ticks=3))
    assert told.recent.mean_tokens is None
    assert told.knee_tokens(SURFACE) == SURFACE.knee_tokens(20)


@pytest.mark.parametrize(
    ("options", "device", "seconds"),
    [
        (DenoiserOptions(num_gpus=0.5), "cuda", 1.0),
        (DenoiserOptions.model_validate({"num_gpus": 1, "parallel": {"tensor": 4}}), "cuda", 8.0),
        (DenoiserOptions(), "cpu", 2.0),
    ],
)
def test_gpu_seconds_are_those_of_all_ranks_and_of_a_share_its_share(
    recorded: Recorder, options: DenoiserOptions, device: str, seconds: float
) -> None:
    told = EngineMetrics(options, 20)
    told.ticked(RanTick(2.0, (("anna", Load.of([30])),)))
    told.publish(stats(ticks=1))
    assert recorded.total(metrics.DEVICE_SECONDS, tenant="anna", device=device) == seconds


def test_a_stage_tells_its_queue_and_what_it_has_done(recorded: Recorder) -> None:
    from deployments.lifecycle.boundary import Boundary

    boundary = Boundary("VaeDecoder")
    boundary.has_to_do(Demand(3.0, 1.0, 2))
    boundary.has_to_do(Demand(2.0, 1.5, 3))
    boundary.took(wait=0.1, run=0.2)
    assert recorded.values(metrics.STAGE_QUEUE_SECONDS, stage="VaeDecoder") == [3.0, 2.0]
    assert recorded.values(metrics.STAGE_BUSY_SECONDS, stage="VaeDecoder") == [1.0, 0.5]
    assert recorded.values(metrics.STAGE_SECONDS, stage="VaeDecoder", phase="run") == [0.2]
