from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from pydantic import ValidationError

import deployments
from deployments.options.base import Options
from deployments.options.stages import (
    AutoscalingOptions,
    DenoiserOptions,
    FinisherOptions,
    ParallelOptions,
    SafetyOptions,
    StageOptions,
    StagesConfig,
    StorageOptions,
    TextEncoderOptions,
    VaeDecoderOptions,
    WeightsOptions,
)
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from tests.specs import tiny_spec

SPEC = tiny_spec("nowhere")


def test_defaults_fit_two_cores_without_a_gpu() -> None:
    config = StagesConfig()
    others = ("storage", "layout", "weights", "log_encoding")
    stages = [getattr(config, name) for name in StagesConfig.model_fields if name not in others]
    assert len(stages) == 6
    assert sum(stage.num_cpus for stage in stages) <= 1.5
    assert all(stage.num_gpus == 0 and stage.resolved_device == "cpu" for stage in stages)
    assert all(stage.deployment_kwargs()["num_replicas"] == 1 for stage in stages)


def test_serve_accepts_every_combination_of_kwargs() -> None:
    options = StageOptions(
        autoscaling=AutoscalingOptions(min_replicas=0, max_replicas=3, initial_replicas=2),
        num_gpus=0.5,
        resources={"decode": 1},
        accelerator_type="H100",
        label_selector={"pool": "decode"},
        max_queued_requests=10,
    )
    deployment = ray.serve.deployment(name="X", **options.deployment_kwargs())(object)
    actor = deployment.ray_actor_options
    assert actor is not None
    assert actor["num_gpus"] == 0.5
    assert actor["label_selector"] == {"pool": "decode"}
    assert actor["accelerator_type"] == "H100"
    assert deployment.max_queued_requests == 10
    scaling = deployment._deployment_config.autoscaling_config
    assert scaling is not None
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (0, 2, 3)


def test_fixed_replicas_and_health_reach_serve() -> None:
    options = VaeDecoderOptions(
        num_replicas=3, health_check_period_s=1, health_check_timeout_s=5, max_surge_percent=50
    )
    deployment = ray.serve.deployment(name="X", **options.deployment_kwargs())(object)
    assert deployment.num_replicas == 3
    assert deployment._deployment_config.health_check_period_s == 1
    assert deployment._deployment_config.health_check_timeout_s == 5
    assert deployment._deployment_config.max_surge_percent == 50


@pytest.mark.parametrize(
    ("options", "values", "field", "hint"),
    [
        (DenoiserOptions, {"num_gpus": 1.5}, "denoiser.num_gpus", "2"),
        (DenoiserOptions, {"device": "cuda"}, "denoiser.device", "num_gpus: 1"),
        (DenoiserOptions, {"device": "cpu", "num_gpus": 1}, "denoiser.device", "num_gpus: 0"),
        (
            VaeDecoderOptions,
            {"num_replicas": 2, "autoscaling": {"max_replicas": 4}},
            "vae_decoder.num_replicas",
            "initial_replicas: 2",
        ),
        (
            VaeDecoderOptions,
            {"autoscaling": {"min_replicas": 4, "max_replicas": 2}},
            "vae_decoder.autoscaling.min_replicas",
            "2",
        ),
        (AutoscalingOptions, {"min_replicas": 4, "max_replicas": 2}, "autoscaling.min", "2"),
        (AutoscalingOptions, {"max_replicas": 2, "initial_replicas": 3}, "autoscaling.ini", "1..2"),
        (
            TextEncoderOptions,
            {"max_batch_size": 2000},
            "text_encoder.max_batch_size",
            "max_ongoing_requests to 2000",
        ),
        (DenoiserOptions, {"max_works": 1025}, "denoiser.max_works", "at most 1024"),
        (SafetyOptions, {"classifier": "huggingface"}, "safety.source", "hf://Falconsai"),
        (
            SafetyOptions,
            {"classifier": "huggingface", "source": "x/y"},
            "safety.flagged_labels",
            "nsfw",
        ),
        (SafetyOptions, {"source": "x/y"}, "safety.source", "classifier: huggingface"),
        (
            SafetyOptions,
            {"classifier": "huggingface", "source": "x/y", "flagged_labels": ["nsfw"]},
            "safety.source",
            "hf://x/y@COMMIT",
        ),
        (WeightsOptions, {"endpoint_url": "http://a:b@c"}, "weights.endpoint_url", "AWS_ACCESS"),
        (SafetyOptions, {"flagged_labels": ["nsfw"]}, "safety.flagged_labels", "leave it out"),
        (SafetyOptions, {"num_gpus": 1}, "safety.num_gpus", "leave it out"),
        (FinisherOptions, {"num_gpus": 1}, "finisher.num_gpus", "leave it out"),
        (StorageOptions, {"kind": "s3"}, "storage.bucket", "my-images"),
        (StorageOptions, {"kind": "s3", "bucket": "b", "max_bytes": 9}, "storage.max", "lifecycle"),
        (StorageOptions, {"kind": "s3", "bucket": "b", "directory": "/x"}, "storage.dir", "local"),
        (StorageOptions, {"bucket": "b"}, "storage.bucket", "kind: s3"),
        (
            StorageOptions,
            {"kind": "s3", "bucket": "b", "endpoint_url": "http://a:b@c"},
            "storage.endpoint_url",
            "AWS_ACCESS",
        ),
        (StorageOptions, {"endpoint_url": "http://x"}, "storage.endpoint_url", "kind: s3"),
    ],
)
def test_what_cannot_work_names_the_field_and_a_value_that_would(
    options: Any, values: dict[str, Any], field: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options(**values)
    assert caught.value.message.startswith(field)
    assert hint in caught.value.message


@pytest.mark.parametrize(
    ("options", "values", "field"),
    [
        (StageOptions, {"num_cpus": -1}, "num_cpus"),
        (StageOptions, {"num_replicas": 0}, "num_replicas"),
        (StageOptions, {"dtype": "int8"}, "dtype"),
        (StageOptions, {"gpus": 1}, "gpus"),
        (SafetyOptions, {"threshold": 1.5}, "threshold"),
        (SafetyOptions, {"classifier": "magic"}, "huggingface"),
        (StorageOptions, {"ttl_s": 0}, "ttl_s"),
    ],
)
def test_bounds_of_one_field_are_validation_errors(
    options: Any, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        options(**values)


@pytest.mark.parametrize("gpus", [0.25, 1, 4])
def test_gpus_make_the_device_cuda(gpus: float) -> None:
    assert DenoiserOptions(num_gpus=gpus).resolved_device == "cuda"


@pytest.mark.parametrize(
    ("values", "threads"),
    [({}, 1), ({"num_cpus": 3.9}, 3), ({"num_cpus": 0.1, "num_threads": 2}, 2)],
)
def test_threads_follow_the_share_of_cpus(values: dict[str, Any], threads: int) -> None:
    assert StageOptions(**values).resolved_threads == threads


def test_every_field_is_documented() -> None:
    for options in (
        StagesConfig,
        AutoscalingOptions,
        TextEncoderOptions,
        DenoiserOptions,
        VaeDecoderOptions,
        SafetyOptions,
        StorageOptions,
        WeightsOptions,
    ):
        for name, field in options.model_fields.items():
            assert field.description, f"{options.__name__}.{name}"


def test_options_are_frozen() -> None:
    options = StagesConfig()
    with pytest.raises(ValidationError, match="frozen"):
        options.denoiser = DenoiserOptions()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_readme_names_every_option() -> None:
    readme = (Path(deployments.__file__).parent / "README.md").read_text("utf-8")
    config = StagesConfig()
    values = [getattr(config, name) for name in StagesConfig.model_fields]
    sections = [value for value in values if isinstance(value, Options)]
    named = {name for section in sections for name in type(section).model_fields}
    named |= set(StagesConfig.model_fields)
    options, scaling, *_ = readme.split("\n## Options\n")[1].split("\n### ")
    assert {name for name in named if f"`{name}`" not in options} == set()
    scaled = AutoscalingOptions.model_fields
    assert {name for name in scaled if f"`{name}`" not in scaling} == set()


def test_each_rank_gets_a_bundle_and_all_are_on_one_node() -> None:
    options = DenoiserOptions(
        num_cpus=2,
        num_gpus=1,
        accelerator_type="H100",
        label_selector={"pool": "denoise"},
        parallel=ParallelOptions(tensor=2, ulysses=2),
    )
    deployment = ray.serve.deployment(name="X", **options.deployment_kwargs())(object)
    config = deployment._replica_config
    assert (
        config.placement_group_bundles == [{"CPU": 2, "GPU": 1, "accelerator_type:H100": 0.001}] * 4
    )
    assert config.placement_group_strategy == "STRICT_PACK"
    assert config.placement_group_bundle_label_selector == [{"pool": "denoise"}] * 4
    assert deployment.ray_actor_options is not None
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert "placement_group_bundles" not in DenoiserOptions().deployment_kwargs()


def test_a_rank_has_one_gpu_and_a_fused_replica_one_process() -> None:
    with pytest.raises(ConfigurationError, match=r"denoiser\.num_gpus: 4 is for each of 2 ranks"):
        DenoiserOptions(num_gpus=4, parallel=ParallelOptions(tensor=2))
    with pytest.raises(ConfigurationError, match="layout: fused is one process"):
        StagesConfig(layout="fused", denoiser=DenoiserOptions(parallel=ParallelOptions(ulysses=2)))


def test_the_stages_that_may_sleep_are_those_without_a_least_replica() -> None:
    asleep = {"autoscaling": {"min_replicas": 0, "start_up_s": 12}}
    awake = {"autoscaling": {"max_replicas": 3}}
    split = StagesConfig.model_validate({"denoiser": asleep, "finisher": awake})
    assert split.scales_to_zero(SPEC) == {"Denoiser": 12.0}
    fused = StagesConfig.model_validate({"layout": "fused", "denoiser": asleep})
    assert fused.scales_to_zero(SPEC) == {"Fused": 12.0}


def test_the_image_encoder_is_there_for_models_that_take_pictures_or_as_one_says() -> None:
    paints = replace(SPEC, tasks=("text-to-image", "inpaint"))

    def deployed(spec: ModelSpec, **section: bool) -> bool:
        config = StagesConfig.model_validate({"image_encoder": section})
        return "ImageEncoder" in [row.name for row in config.deployed(spec)]

    assert [deployed(SPEC), deployed(paints)] == [False, True]
    assert [deployed(SPEC, enabled=True), deployed(paints, enabled=False)] == [True, False]
    asleep = {"image_encoder": {"autoscaling": {"min_replicas": 0, "start_up_s": 3}}}
    config = StagesConfig.model_validate(asleep)
    assert config.scales_to_zero(paints) == {"ImageEncoder": 3.0}
    assert config.scales_to_zero(SPEC) == {}


def test_a_fused_replica_has_its_cpus_if_it_is_there() -> None:
    config = StagesConfig.model_validate({"layout": "fused", "image_encoder": {"num_cpus": 0.7}})
    (without,) = config.deployed(SPEC).values()
    (options,) = config.deployed(replace(SPEC, tasks=("edit",))).values()
    assert options.num_cpus == pytest.approx(without.num_cpus + 0.7)
