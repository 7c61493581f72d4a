"""The application on a real Ray cluster: processes, cancellation and crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import ray.serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.options.stages import DenoiserOptions, StagesConfig
from pipelines.contracts import GenerationResult
from pipelines.engine.observe.stats import EngineStats
from pipelines.errors import DegenerateImage, SluiceError
from tests.cluster import (
    PATIENCE_S,
    is_whole,
    kill,
    ongoing,
    paused,
    replica_processes,
    wait_until,
)
from tests.deployments.conftest import GRAPH_APP as APP
from tests.deployments.driver import Attempt, bind_driver, make_job
from tests.deployments.images import assert_same_image, pixels_of
from tests.replica_logs import ReplicaLogs
from tests.specs import tiny_spec

pytestmark = pytest.mark.cluster

LONG = 400
"""Steps that keep the tiny denoiser busy for a second."""
ENDLESS = 20_000
"""Steps that nobody waits for."""

Driver = DeploymentHandle[Any]


@pytest.fixture
def driver(graph_driver: Driver) -> Driver:
    wait_until(lambda: is_whole(APP))
    return graph_driver


def _start(driver: Driver, **changes: Any) -> DeploymentResponse[GenerationResult]:
    response = driver.generate.remote(make_job(**changes))
    assert isinstance(response, DeploymentResponse)
    return response


def _generate(driver: Driver, **changes: Any) -> GenerationResult:
    return _start(driver, **changes).result(timeout_s=PATIENCE_S)


def _hashes(result: GenerationResult) -> list[str]:
    return [image.sha256 for image in result.images]


def _engine(driver: Driver) -> EngineStats:
    return driver.engine.remote().result(timeout_s=PATIENCE_S)


def _attempts(driver: Driver, request_id: str) -> list[Attempt]:
    return driver.attempts.remote(request_id).result(timeout_s=PATIENCE_S)


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
    assert not driver.loaded.remote("torch").result(timeout_s=PATIENCE_S)
    assert driver.loaded.remote("deployments.graph.graph").result(timeout_s=PATIENCE_S)


def test_every_stage_is_ready(driver: Driver) -> None:
    answers = driver.ready.remote().result(timeout_s=PATIENCE_S)
    assert len(answers) == 5
    assert all(answers.values())


def test_a_cancelled_request_frees_the_engine(driver: Driver) -> None:
    before = _engine(driver)
    response = _start(driver, steps=ENDLESS, num_images=2)
    wait_until(lambda: (s := _engine(driver)).works == 2 and s.ticks > before.ticks)
    response.cancel()
    wait_until(lambda: _engine(driver).works == 0)
    after = _engine(driver)
    assert (after.finished, after.cancelled) == (before.finished, before.cancelled + 2)
    assert len(_generate(driver).images) == 1


def test_the_works_of_a_caller_that_is_killed_leave(driver: Driver) -> None:
    """As seen, 32 images of 100 steps were drawn to the end for nobody."""
    denoiser = ray.serve.get_deployment_handle("Denoiser", APP)

    def engine() -> EngineStats:
        return denoiser.stats.remote().result(timeout_s=PATIENCE_S)

    before = engine()
    pid = driver.pid.remote().result(timeout_s=PATIENCE_S)
    _start(driver, steps=ENDLESS, num_images=32)
    wait_until(lambda: (now := engine()).works == 32 and now.steps > before.steps)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine().works == 0)
    # The replica answers while these calls wait until nothing of them is on its way to nobody: as
    # seen, each that ended earlier stopped it for a second.
    # A question that was just answered may be counted, too.
    assert ongoing("Denoiser", app=APP) >= 32
    after = engine()
    assert after.cancelled - before.cancelled == 32
    assert after.steps - before.steps < 32 * ENDLESS / 4
    wait_until(lambda: _is_up(driver) and is_whole(APP))
    assert len(_generate(driver).images) == 1


def _is_up(driver: Driver) -> bool:
    try:
        return all(driver.ready.remote().result(timeout_s=PATIENCE_S).values())
    except ray.exceptions.RayActorError:
        return False


def test_an_error_leaves_the_others_in_flight_alone(driver: Driver) -> None:
    expected = _hashes(_generate(driver, steps=LONG))
    # Both are with the denoiser before it begins, so they step together until one fails.
    with paused(replica_processes("Denoiser", app=APP)):
        good = _start(driver, request_id="good", steps=LONG)
        bad = _start(driver, request_id="bad", guidance_scale=float("nan"))
        wait_until(lambda: all(_attempts(driver, each) for each in ("good", "bad")))
    with pytest.raises(DegenerateImage) as caught:
        bad.result(timeout_s=PATIENCE_S)
    assert isinstance(caught.value, SluiceError)
    assert _hashes(good.result(timeout_s=PATIENCE_S)) == expected


def test_the_first_failure_stops_the_siblings(driver: Driver) -> None:
    """A flawed prompt fails all its images at once; none of them may stay in the engine."""
    before, log = _engine(driver), ReplicaLogs(APP, "Denoiser")
    with pytest.raises(DegenerateImage):
        _generate(driver, guidance_scale=float("nan"), num_images=3, steps=LONG)
    wait_until(lambda: _engine(driver).works == 0)
    assert _engine(driver).finished == before.finished
    assert "Traceback" not in "".join(log.lines())


def test_a_decoder_that_dies_is_survived(driver: Driver) -> None:
    size = {"height": 1024, "width": 1024, "steps": 4}
    expected = _hashes(_generate(driver, **size))
    before = _engine(driver)
    (decoder,) = replica_processes("VaeDecoder", app=APP)
    with paused([decoder]):  # so that it dies with the image, be that asked for or begun
        disturbed = _start(driver, **size)
        wait_until(lambda: _engine(driver).finished == before.finished + 1)
        kill(decoder, "VaeDecoder", app=APP)
    assert _hashes(disturbed.result(timeout_s=PATIENCE_S)) == expected
    assert _engine(driver).ticks == before.ticks + size["steps"]  # nothing was denoised again


def test_a_text_encoder_that_dies_is_survived(driver: Driver) -> None:
    expected = _hashes(_generate(driver, prompt="the blue cat"))
    (encoder,) = replica_processes("TextEncoder", app=APP)
    with paused([encoder]):
        disturbed = _start(driver, prompt="the blue cat")
        kill(encoder, "TextEncoder", app=APP)
    assert _hashes(disturbed.result(timeout_s=PATIENCE_S)) == expected


def test_a_stage_that_is_too_busy_to_answer_is_ready(
    other_stages: Mapping[str, Driver], dev_like: Path
) -> None:
    """A load balancer must not take a server away at its peak."""
    options = DenoiserOptions(
        max_ongoing_requests=1, max_works=1, graceful_shutdown_timeout_s=1, calibration_s=0.1
    )
    app = "busy-test"
    busy: Driver = ray.serve.run(
        bind_driver(tiny_spec(dev_like), StagesConfig(denoiser=options), other_stages),
        name=app,
        route_prefix=None,
    )
    denoiser: Driver = ray.serve.get_deployment_handle("Denoiser", app)

    def is_full() -> bool:
        try:
            denoiser.stats.remote().result(timeout_s=2)
        except TimeoutError:
            return True
        return False

    try:
        work = _start(busy, steps=ENDLESS)
        wait_until(is_full)
        assert busy.ready.remote().result(timeout_s=PATIENCE_S)["Denoiser"] is True
        assert is_full(), "the work must have lasted until here"
        work.cancel()
    finally:
        ray.serve.delete(app)
