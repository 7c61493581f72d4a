"""A stage that the product does not know is added by one row, and is a stage like all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.serve

from deployments.application import bind_stages
from deployments.graph.graph import Graph
from deployments.metrics import declared as metrics
from deployments.options.reconfigure import check_sections
from deployments.options.stages import AutoscalingOptions
from deployments.stages.local_handle import LocalHandle
from pipelines.errors import ConfigurationError, StageFailed
from serve.capacity.placement import placements
from serve.settings.settings import Settings
from tests.deployments.fakes import FakeStages
from tests.deployments.toy_stage import TOY, ShouterOptions, ShouterShim, ToyConfig
from tests.recorder import Recorder, recorded
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


def test_it_is_bound_and_scaled_as_configured(tmp_path: Path) -> None:
    bound = bind_stages(tiny_spec(tmp_path), SCALED)
    deployment = bound["shouter"]._bound_deployment
    scaling: Any = deployment._deployment_config.autoscaling_config
    assert deployment.name == "Shouter"
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)
    assert SCALED.scales_to_zero() == {"Shouter": 7.0}


def test_it_shares_the_fused_replica(tmp_path: Path) -> None:
    fused = ToyConfig(layout="fused", shouter=ShouterOptions(num_cpus=0.3))
    (options,) = fused.deployed().values()
    rest = ToyConfig(layout="fused", shouter=ShouterOptions(num_cpus=0.0))
    (without,) = rest.deployed().values()
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
