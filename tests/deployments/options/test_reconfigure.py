"""Options that running replicas take over, and those that they refuse to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.options.reconfigure import changed, taken_over
from deployments.options.stages import (
    AutoscalingOptions,
    DenoiserOptions,
    FinisherOptions,
    SafetyOptions,
    StorageOptions,
    TextEncoderOptions,
    VaeDecoderOptions,
)
from deployments.stages.finisher import Finisher
from deployments.stages.safety import SafetyClassifier
from pipelines.contracts import DecodedImage
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Work
from pipelines.errors import ConfigurationError

SCALED = FinisherOptions(autoscaling=AutoscalingOptions(max_replicas=4))


def test_what_is_left_out_is_as_it_was_started() -> None:
    started = DenoiserOptions(max_works=8, num_cpus=2)
    options = changed(started, {"policy": "srpt"})
    assert (options.policy, options.max_works, options.num_cpus) == ("srpt", 8, 2)
    assert changed(started, {}) == changed(started, None) == started


@pytest.mark.parametrize(
    ("options", "user_config", "field", "hint"),
    [
        (DenoiserOptions(), {"dtype": "bfloat16"}, "user_config.dtype", "policy, max_works"),
        (DenoiserOptions(), {"polcy": "srpt"}, "user_config.polcy", "policy"),
        (DenoiserOptions(), {"policy": "lifo"}, "user_config.policy", "'srpt'"),
        (DenoiserOptions(), {"max_works": 2000}, "denoiser.max_works", "1024"),
        (TextEncoderOptions(), {"max_batch_size": 0}, "user_config.max_batch_size", "greater"),
        (SafetyOptions(), {"threshold": 1.5}, "user_config.threshold", "less than or equal"),
        (SafetyOptions(), "threshold: 1", "user_config", "options by their names"),
        (
            SCALED,
            {"autoscaling": {"target_wait_s": 0}},
            "user_config.autoscaling.target_wait_s",
            "",
        ),
        (SCALED, {"autoscaling": {"max_replicas": 9}}, "user_config.autoscaling.max_replicas", ""),
        (VaeDecoderOptions(), {"autoscaling": {}}, "user_config.autoscaling", "with none"),
    ],
)
def test_what_cannot_change_names_its_field(
    options: Any, user_config: dict[str, Any], field: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        changed(options, user_config)
    assert caught.value.message.startswith(f"{field}: ")
    assert hint in caught.value.message


def test_what_is_taken_over_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ray.serve").propagate = True
    with caplog.at_level(logging.INFO, "ray.serve"):
        assert taken_over(VaeDecoderOptions(), None) == VaeDecoderOptions()
        assert "taken over" not in caplog.text
        assert taken_over(DenoiserOptions(), {"policy": "fifo"}) == DenoiserOptions(policy="fifo")
    assert "user_config is taken over: {'policy': 'fifo'}" in caplog.text


def test_a_mistake_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ray.serve").propagate = True
    assert taken_over(VaeDecoderOptions(), {"device": "cuda"}) is None
    assert "nothing was changed: user_config.device" in caplog.text


def test_a_scheduler_plans_by_another_policy_from_then_on() -> None:
    scheduler = Scheduler(
        cost=CostSurface(base=1.0, per_token=0.001), policy="fifo", max_tokens=1000, max_works=1
    )

    def work(name: str, steps: int, arrival: float) -> Work:
        return Work(id=name, group=name, segments=(10,), num_steps=steps, arrival=arrival)

    scheduler.add(work("long", 50, 0.0))
    scheduler.add(work("short", 2, 0.1))

    def planned() -> tuple[str, ...]:
        tick = scheduler.plan(1.0)
        assert tick is not None
        return tick.work_ids

    assert planned() == ("long",)
    scheduler.configure("srpt", 1)
    assert planned() == ("short",)
    scheduler.configure("srpt", 2)
    assert set(planned()) == {"short", "long"}
    with pytest.raises(ValueError, match="max_works"):
        scheduler.configure("edf", 0)


def test_a_target_wait_is_told_to_the_controller_with_the_work(tmp_path: Path) -> None:
    stage = Finisher(SCALED, StorageOptions(directory=tmp_path))
    assert stage.record_autoscaling_stats()["target_wait_s"] == 5
    stage.reconfigure({"autoscaling": {"target_wait_s": 0.5}})
    assert stage.record_autoscaling_stats()["target_wait_s"] == 0.5
    stage.reconfigure(None)
    assert stage.record_autoscaling_stats()["target_wait_s"] == 5
    stage.close()


async def test_a_classifier_judges_by_the_threshold_of_the_moment() -> None:
    stage = SafetyClassifier(SafetyOptions(threshold=1.0))
    image = DecodedImage(pixels=np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    assert not (await stage.classify(image)).flagged
    stage.reconfigure({"threshold": 0.0})
    verdict = await stage.classify(image)
    assert (verdict.flagged, verdict.threshold) == (True, 0.0)
    stage.reconfigure({"threshold": 2.0})
    assert (await stage.classify(image)).threshold == 0.0
    stage.reconfigure(None)
    assert (await stage.classify(image)).threshold == 1.0
    stage.close()
