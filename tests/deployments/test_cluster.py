"""The application on a real Ray cluster: processes, cancellation and crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import ray.serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.options.stages import DenoiserOptions, StagesConfig, VaeDecoderOptions
from pipelines.contracts import GenerationResult
from pipelines.engine.observe.stats import EngineStats
from pipelines.errors import DegenerateImage, SluiceError
from tests.cluster import LocalCluster, wait_until
from tests.deployments.driver import bind_driver, make_job
from tests.deployments.images import assert_same_image, pixels_of
from tests.specs import tiny_spec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

APP = "graph-test"
DEADLINE_S = 120.0
LONG = 400
"""Steps that keep the tiny denoiser busy for seconds."""
ENDLESS = 5_000
"""Steps that nobody waits for."""

Driver = DeploymentHandle[Any]


@pytest.fixture(scope="module")
def driver(cluster: LocalCluster, dev_like: Path) -> Iterator[Driver]:
    config = StagesConfig(
        denoiser=DenoiserOptions(health_check_period_s=1, calibration_s=0.1),
        vae_decoder=VaeDecoderOptions(health_check_period_s=1),
    )
    yield ray.serve.run(bind_driver(tiny_spec(dev_like), config), name=APP, route_prefix=None)
    ray.serve.delete(APP)


def _start(driver: Driver, **changes: Any) -> DeploymentResponse[GenerationResult]:
    response = driver.generate.remote(make_job(**changes))
    assert isinstance(response, DeploymentResponse)
    return response


def _generate(driver: Driver, **changes: Any) -> GenerationResult:
    return _start(driver, **changes).result(timeout_s=DEADLINE_S)


def _hashes(result: GenerationResult) -> list[str]:
    return [image.sha256 for image in result.images]


def _engine(driver: Driver) -> EngineStats:
    return driver.engine.remote().result(timeout_s=DEADLINE_S)


def _wait_for_works(driver: Driver, works: int) -> None:
    """Until the engine holds that many works and, if any, has begun to step them."""
    before = _engine(driver).ticks
    wait_until(lambda: (s := _engine(driver)).works == works and (not works or s.ticks > before))


def test_equal_requests_give_equal_files(driver: Driver) -> None:
    first, second = _generate(driver), _generate(driver)
    assert _hashes(first) == _hashes(second)
    assert first.images[0].b64 == second.images[0].b64
    assert second.timings["encode"] == 0.0  # from the cache
    assert _hashes(_generate(driver, seed=1)) != _hashes(first)


def test_several_images_have_the_seeds_of_single_ones(driver: Driver) -> None:
    together = _generate(driver, num_images=3, seed=7)
    alone = [_generate(driver, seed=seed) for seed in (7, 8, 9)]
    assert [image.seed for image in together.images] == [7, 8, 9]
    for image, single in zip(together.images, alone, strict=True):
        assert_same_image(pixels_of(image), pixels_of(single.images[0]))


def test_a_negative_prompt_takes_part(driver: Driver) -> None:
    plain = _generate(driver)
    guided = _generate(driver, negative_prompt="a dog", true_cfg_scale=3.0)
    assert _hashes(guided) != _hashes(plain)
    assert guided.usage.input_tokens > plain.usage.input_tokens


def test_the_ingress_process_needs_no_torch(driver: Driver) -> None:
    _generate(driver)
    assert not driver.loaded.remote("torch").result(timeout_s=DEADLINE_S)
    assert driver.loaded.remote("deployments.graph.graph").result(timeout_s=DEADLINE_S)


def test_every_stage_is_ready(driver: Driver) -> None:
    answers = driver.ready.remote().result(timeout_s=DEADLINE_S)
    assert len(answers) == 5
    assert all(answers.values())


def test_a_cancelled_request_frees_the_engine(driver: Driver) -> None:
    response = _start(driver, steps=ENDLESS, num_images=2)
    _wait_for_works(driver, 2)
    response.cancel()
    _wait_for_works(driver, 0)
    assert len(_generate(driver).images) == 1


def test_the_works_of_a_caller_that_is_killed_leave(driver: Driver) -> None:
    """As seen, 32 images of 100 steps were drawn to the end for nobody."""
    denoiser = ray.serve.get_deployment_handle("Denoiser", APP)

    def engine() -> EngineStats:
        return denoiser.stats.remote().result(timeout_s=DEADLINE_S)

    before = engine()
    pid = driver.pid.remote().result(timeout_s=DEADLINE_S)
    _start(driver, steps=ENDLESS, num_images=32)
    wait_until(lambda: (now := engine()).works == 32 and now.steps > before.steps)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine().works == 0)
    after = engine()
    assert after.cancelled - before.cancelled == 32
    assert after.steps - before.steps < 32 * ENDLESS / 4
    wait_until(lambda: _is_up(driver))
    assert len(_generate(driver).images) == 1


def _is_up(driver: Driver) -> bool:
    try:
        return all(driver.ready.remote().result(timeout_s=DEADLINE_S).values())
    except ray.exceptions.RayActorError:
        return False


def test_an_error_leaves_the_others_in_flight_alone(driver: Driver) -> None:
    expected = _hashes(_generate(driver, steps=LONG))
    good = _start(driver, steps=LONG)
    _wait_for_works(driver, 1)
    with pytest.raises(DegenerateImage) as caught:
        _generate(driver, guidance_scale=float("nan"))
    assert isinstance(caught.value, SluiceError)
    assert _hashes(good.result(timeout_s=DEADLINE_S)) == expected


def test_the_first_failure_stops_the_siblings(driver: Driver) -> None:
    """A flawed prompt fails all its images at once; none of them may stay in the engine."""
    with pytest.raises(DegenerateImage):
        _generate(driver, guidance_scale=float("nan"), num_images=3, steps=LONG)
    _wait_for_works(driver, 0)


def test_a_decoder_that_dies_is_survived(driver: Driver, cluster: LocalCluster) -> None:
    size = {"height": 1024, "width": 1024, "steps": 4}
    expected = _hashes(_generate(driver, **size))
    ticks = _engine(driver).ticks
    disturbed = _start(driver, **size)
    _wait_for_works(driver, 1)
    _wait_for_works(driver, 0)
    cluster.kill_replica("VaeDecoder", app=APP)
    assert _hashes(disturbed.result(timeout_s=DEADLINE_S)) == expected
    assert _engine(driver).ticks == ticks + size["steps"]  # nothing was denoised again


def test_a_text_encoder_that_dies_is_survived(driver: Driver, cluster: LocalCluster) -> None:
    expected = _hashes(_generate(driver, prompt="the blue cat"))
    cluster.kill_replica("TextEncoder", app=APP)
    assert _hashes(_generate(driver, prompt="the blue cat")) == expected


def test_a_stage_that_is_too_busy_to_answer_is_ready(driver: Driver, dev_like: Path) -> None:
    """A load balancer must not take a server away at its peak."""
    options = DenoiserOptions(
        max_ongoing_requests=1, max_works=1, graceful_shutdown_timeout_s=1, calibration_s=0.1
    )
    app = "busy-test"
    busy: Driver = ray.serve.run(
        bind_driver(tiny_spec(dev_like), StagesConfig(denoiser=options)),
        name=app,
        route_prefix=None,
    )
    denoiser: Driver = ray.serve.get_deployment_handle("Denoiser", app)

    def is_full() -> bool:
        try:
            denoiser.stats.remote().result(timeout_s=1)
        except TimeoutError:
            return True
        return False

    try:
        work = _start(busy, steps=ENDLESS)
        wait_until(is_full)
        assert busy.ready.remote().result(timeout_s=DEADLINE_S)["Denoiser"] is True
        assert is_full(), "the work must have lasted until here"
        work.cancel()
    finally:
        ray.serve.delete(app)
