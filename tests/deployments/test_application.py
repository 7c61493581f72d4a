"""The application without its processes: every stage for real, in Serve's local testing mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from ray.serve.handle import DeploymentHandle

from deployments.application import bind_stages
from deployments.graph.listening.events import Phase, Progress
from deployments.options.stages import StagesConfig
from deployments.storage.parameters import read_record
from pipelines import catalog
from pipelines.contracts import Cut, GenerationResult
from pipelines.embedded import EMBEDDED_MODEL_NAME
from pipelines.errors import ContentPolicyViolation, DegenerateImage
from pipelines.local import LocalChain
from tests.deployments.driver import bind_driver, make_job
from tests.deployments.fakes import FakeClassifier
from tests.deployments.images import assert_same_image, parameters_of, pixels_of
from tests.specs import tiny_spec


@pytest.fixture(scope="module")
def classifier() -> Iterator[FakeClassifier]:
    """In the place of the real one: random weights draw nothing that it could judge."""
    fake = FakeClassifier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipelines.stages.safety.safety.load_image_classifier", lambda kind, **options: fake
        )
        yield fake


@pytest.fixture(scope="module")
def driver(dev_like: Path, classifier: FakeClassifier) -> DeploymentHandle[Any]:
    application = bind_driver(tiny_spec(dev_like), StagesConfig())
    return ray.serve.run(application, name="local-graph", _local_testing_mode=True)


def _generate(driver: DeploymentHandle[Any], **changes: Any) -> GenerationResult:
    return driver.generate.remote(make_job(**changes)).result(timeout_s=120)


def test_names_and_options_are_where_configurations_expect_them(tmp_path: Path) -> None:
    stages = bind_stages(tiny_spec(tmp_path), StagesConfig())
    deployments = {key: app._bound_deployment for key, app in stages.items()}
    assert {key: deployment.name for key, deployment in deployments.items()} == {
        "text_encoder": "TextEncoder",
        "denoiser": "Denoiser",
        "vae_decoder": "VaeDecoder",
        "safety": "SafetyClassifier",
        "finisher": "Finisher",
    }
    assert all(deployment.num_replicas == 1 for deployment in deployments.values())


def test_binding_touches_no_weights(tmp_path: Path) -> None:
    assert len(bind_stages(tiny_spec(tmp_path / "missing"), StagesConfig())) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"height": 32, "width": 80, "steps": 3, "seed": 5},
        {"negative_prompt": "a dog", "true_cfg_scale": 3.0},
        {"num_images": 3, "seed": 2},
    ],
    ids=["plain", "not-square", "true-cfg", "three-images"],
)
def test_the_graph_draws_what_the_local_chain_draws(
    driver: DeploymentHandle[Any], dev_like: Path, changes: dict[str, Any]
) -> None:
    result = _generate(driver, **changes)
    params = make_job(**changes).params
    expected = LocalChain.load(tiny_spec(dev_like)).generate(params)
    assert len(result.images) == params.num_images
    for index, (image, wanted) in enumerate(zip(result.images, expected, strict=True)):
        assert_same_image(pixels_of(image), wanted.pixels)
        assert image.seed == params.seed + index
        assert (image.height, image.width) == (params.height, params.width)


def test_a_listener_hears_how_far_each_image_is(driver: DeploymentHandle[Any]) -> None:
    job = make_job(steps=7, num_images=2)
    heard: list[Progress] = driver.heard.remote(job).result(timeout_s=120)
    for index in range(2):
        of_image = [each for each in heard if each.image == index]
        assert list(dict.fromkeys(each.phase for each in of_image)) == list(Phase)
        denoising = [each.step for each in of_image if each.phase == Phase.DENOISE]
        assert {5, 7} <= set(denoising)  # the checkpoint and the last; a slow machine tells more
        assert denoising == sorted(denoising)
        assert {each.num_steps for each in of_image} == {7}


def test_images_are_kept_wherever_they_are_drawn(driver: DeploymentHandle[Any]) -> None:
    """The denoiser's replica is told while it steps them, and the files are drawn again as such."""
    job = make_job(steps=4_000, num_images=2)
    result = driver.kept.remote(job).result(timeout_s=120)
    for index, image in enumerate(result.images):
        assert 1 < image.steps_run < 4_000
        cut = Cut(image.steps_run - 1, image.steps_run)
        params = replace(job.params, num_images=1, seed=index, planned_cuts=(cut,))
        again = driver.generate.remote(replace(job, params=params)).result(timeout_s=120)
        assert pixels_of(again.images[0]).tobytes() == pixels_of(image).tobytes()
    assert result.usage.megapixel_steps == pytest.approx(
        sum(image.steps_run for image in result.images) * 64 * 64 / 1e6
    )
    assert result.usage.device_seconds > 0


def test_usage_timings_and_warnings_come_along(driver: DeploymentHandle[Any]) -> None:
    result = _generate(driver, prompt="the red cat on the blue square " * 5, true_cfg_scale=2.0)
    assert result.usage.input_tokens == 16
    assert result.usage.output_tokens == 16
    t5_warning, clip_warning, cfg_warning = result.warnings
    assert t5_warning.startswith("prompt: longer than 16 tokens")
    assert clip_warning.startswith("prompt: longer than the CLIP encoder reads")
    assert cfg_warning.startswith("true_cfg_scale:")
    phases = "encode_wait encode denoise_wait denoise decode_wait decode"
    phases += " safety_wait safety finish_wait finish store total"
    assert result.timings.keys() == set(phases.split())
    assert all(seconds >= 0 for seconds in result.timings.values())


def test_each_file_says_its_own_seed(driver: DeploymentHandle[Any]) -> None:
    result = _generate(driver, num_images=2, seed=40)
    settings = [parameters_of(image).splitlines()[-1] for image in result.images]
    assert [read_record(parameters_of(image))["seed"] for image in result.images] == [40, 41]
    for line, seed in zip(settings, (40, 41), strict=True):
        assert f", Seed: {seed}, Size: 64x64, " in line


def test_a_flagged_image_is_refused(
    driver: DeploymentHandle[Any], classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "flag_from", 0.0)
    with pytest.raises(ContentPolicyViolation) as caught:
        _generate(driver)
    assert (caught.value.stage, caught.value.image_index) == ("image", 0)


def test_an_error_of_a_stage_comes_out_as_itself_and_the_next_job_works(
    driver: DeploymentHandle[Any],
) -> None:
    with pytest.raises(DegenerateImage):
        _generate(driver, guidance_scale=float("nan"))
    assert len(_generate(driver).images) == 1


def test_the_carried_model_is_drawn_as_by_the_local_chain(classifier: FakeClassifier) -> None:
    spec = catalog.find(EMBEDDED_MODEL_NAME)
    application = bind_driver(spec, StagesConfig())
    driver = ray.serve.run(application, name="local-carried", _local_testing_mode=True)
    changes: dict[str, Any] = {
        "prompt": "a red circle on a white background",
        "height": spec.height,
        "width": spec.width,
        "steps": 4,
        "guidance_scale": spec.guidance_scale,
    }
    (image,) = _generate(driver, **changes).images
    (expected,) = LocalChain.load(spec).generate(make_job(**changes).params)
    assert_same_image(pixels_of(image), expected.pixels)


def test_every_stage_is_ready(driver: DeploymentHandle[Any]) -> None:
    answers = driver.ready.remote().result(timeout_s=30)
    assert list(answers.values()) == [True] * 5
