"""A stage that the product does not know is added by one row, and is a stage like all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray.serve
from rich.console import Console

from deployments.application import bind_stages
from deployments.graph.graph import Graph
from deployments.metrics import declared as metrics
from deployments.options.reconfigure import check_sections
from deployments.options.stages import AutoscalingOptions, StagesConfig
from deployments.stage_table import STAGES, StageRow
from deployments.stages.local_handle import LocalHandle
from pipelines.errors import ConfigurationError, StageFailed
from serve.capacity.placement import Placement, placements
from serve.cli.checking import check_fit
from serve.cli.tables import placement_table
from serve.settings.settings import Settings
from serve.tracing.views.waterfall import waterfall
from tests.deployments.fakes import FakeStages
from tests.deployments.toy_stage import (
    TOY,
    WEIGHTY,
    ShouterOptions,
    ShouterShim,
    ToyConfig,
    WeightyConfig,
)
from tests.recorder import Recorder, recorded
from tests.serve.tracing.sample import TraceBuilder
from tests.specs import tiny_spec

__all__ = ["recorded"]

SCALED = ToyConfig(
    shouter=ShouterOptions(
        num_cpus=0.3, autoscaling=AutoscalingOptions(min_replicas=0, max_replicas=3, start_up_s=7.0)
    )
)


def test_it_is_placed() -> None:
    settings = Settings.load({}).model_copy(update={"stages": SCALED})
    (placement,) = [each for each in placements(settings) if each.deployment == "Shouter"]
    assert (placement.setting, placement.num_cpus) == ("stages.shouter", 0.3)
    assert (placement.min_replicas, placement.max_replicas) == (0, 3)
    assert placement.dtype is None  # it computes with no weights


def placed(stages: StagesConfig) -> Mapping[str, Placement]:
    settings = Settings.load({}).model_copy(update={"stages": stages})
    return {each.deployment: each for each in placements(settings)}


def test_memory_that_nobody_knows_is_not_counted_as_none() -> None:
    on_gpu = ShouterOptions(num_gpus=1)
    shouter = placed(WeightyConfig(shouter=on_gpu))["Shouter"]
    assert (shouter.memory, shouter.uncounted, shouter.dtype) == (None, ("Shouter",), "float32")
    (note,) = check_fit([shouter], None).notes
    assert note.startswith("Shouter: whether it fits its GPU is unknown")
    assert "stages.shouter.num_gpus" in note
    printed = StringIO()
    Console(width=200, file=printed).print(placement_table("", [shouter]))
    assert "unknown" in printed.getvalue()
    for silent in (ToyConfig(shouter=on_gpu), WeightyConfig()):
        assert placed(silent)["Shouter"].uncounted == ()  # no weights, or not on a GPU


def test_what_it_holds_of_the_model_is_counted() -> None:
    class Config(ToyConfig):
        table: ClassVar[tuple[StageRow, ...]] = (*STAGES, replace(WEIGHTY, holds="vae"))

    rows = placed(Config(shouter=ShouterOptions(num_gpus=1)))
    shouter, decoder = rows["Shouter"], rows["VaeDecoder"]
    assert shouter.memory is not None
    assert decoder.memory is not None
    assert (shouter.memory.weights, shouter.uncounted) == (decoder.memory.weights, ())
    assert shouter.gpu_bytes > shouter.memory.total


def test_a_fused_replica_says_whose_memory_it_does_not_count() -> None:
    gpu = {"num_gpus": 1}
    fused = WeightyConfig.model_validate({"layout": "fused", "denoiser": gpu, "shouter": gpu})
    replica = placed(fused)["Fused"]
    assert replica.memory is not None
    assert replica.uncounted == ("Shouter",)


def test_its_spans_have_their_place_in_the_waterfall() -> None:
    built = TraceBuilder()
    top = built.span("POST /v1/images/generations", 0, 100)
    built.span("finish.run", 60, 90, top)
    built.span("shout.wait", 0, 20, top)
    built.span("shout.run", 20, 60, top)
    stages = waterfall(built.otlp(), ToyConfig.table).stages()
    assert [(each.stage, each.worked_ns, each.waited_ns) for each in stages] == [
        ("finish", 30e6, 0),
        ("shout", 40e6, 20e6),
        ("other", 10e6, 0),
    ]


def test_it_is_bound_and_scaled_as_configured(tmp_path: Path) -> None:
    bound = bind_stages(tiny_spec(tmp_path), SCALED)
    deployment = bound["shouter"]._bound_deployment
    scaling: Any = deployment._deployment_config.autoscaling_config
    assert deployment.name == "Shouter"
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)
    assert SCALED.scales_to_zero(tiny_spec(tmp_path)) == {"Shouter": 7.0}


def test_it_shares_the_fused_replica(tmp_path: Path) -> None:
    fused = ToyConfig(layout="fused", shouter=ShouterOptions(num_cpus=0.3))
    (options,) = fused.deployed(tiny_spec(tmp_path)).values()
    rest = ToyConfig(layout="fused", shouter=ShouterOptions(num_cpus=0.0))
    (without,) = rest.deployed(tiny_spec(tmp_path)).values()
    assert options.num_cpus == pytest.approx(without.num_cpus + 0.3)


async def test_the_graph_waits_for_it_and_wakes_it() -> None:
    stages = FakeStages()
    handles: dict[str, Any] = {**stages.handles(), TOY.key: LocalHandle(stages)}
    graph = Graph(handles, table=ToyConfig.table)
    assert (await graph.ready())["Shouter"] is True


def test_its_options_change_in_place() -> None:
    keys = [row.key for row in ToyConfig.table]
    check_sections(ToyConfig(), keys, {"shouter": {"max_batch_size": 2}})
    with pytest.raises(ConfigurationError, match=r"user_config\.shouter\.num_cpus: does not"):
        check_sections(ToyConfig(), keys, {"shouter": {"num_cpus": 2}})


async def test_it_is_traced_and_measured(recorded: Recorder) -> None:
    shim = ShouterShim(ShouterOptions())
    louder, timings, spans = await shim.shout("quiet")
    assert louder == "QUIET"
    assert set(timings) == {"shout_wait", "shout"}
    assert [span.name for span in spans] == ["shout.wait", "shout.run"]
    seconds = recorded.values(metrics.STAGE_SECONDS, stage="Shouter", phase="run")
    assert seconds == [timings["shout"]]
    with pytest.raises(StageFailed, match="Shouter failed"):
        await shim.shout("")
    assert recorded.total(metrics.STAGE_FAILURES, stage="Shouter") == 1
    assert shim.record_autoscaling_stats()["done"] == 2
    shim.check_health()
    shim.close()
    shim.close()


def test_it_answers_over_a_handle() -> None:
    application = bind_stages(tiny_spec("nowhere"), ToyConfig())["shouter"]
    handle = ray.serve.run(application, name="toy", _local_testing_mode=True)
    louder, _, _ = handle.shout.remote("over a handle").result(timeout_s=30)
    assert louder == "OVER A HANDLE"
