"""Requests with pictures on a real Ray cluster: drawn, pasted back, and an image encoder killed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.serve
from PIL import Image
from ray.serve.handle import DeploymentHandle

from deployments.names import StageName
from deployments.options.stages import ImageEncoderOptions, StagesConfig
from deployments.storage.receipt_reading import read_receipt
from pipelines.contracts import (
    FinishedImage,
    GenerationJob,
    GenerationResult,
    LatentJob,
    TextPrompt,
)
from pipelines.engine.observe.stats import EngineStats
from pipelines.errors import InvalidRequest
from pipelines.pictures.prepare import Files, prepare_all
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from pipelines.tasks import PictureRole, Task
from tests.cluster import (
    PATIENCE_S,
    is_whole,
    kill,
    paused,
    replica_processes,
    wait_until,
)
from tests.deployments.conftest import GRAPH_APP
from tests.deployments.driver import bind_driver, make_job
from tests.deployments.images import assert_same_image, pixels_of
from tests.deployments.pictures import painted_job, recipe, with_pictures
from tests.replica_logs import ReplicaLogs
from tests.specs import tiny_spec

pytestmark = pytest.mark.cluster

APP = "pictures-test"

Driver = DeploymentHandle[Any]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


PIXELS = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
COVERED = np.zeros((64, 64), dtype=bool)
COVERED[8:56, 16:48] = True
IMAGE, MASK = _png(PIXELS), _png(COVERED.astype(np.uint8) * 255)
NOTHING = _png(np.zeros((64, 64), dtype=np.uint8))


@pytest.fixture(scope="module")
def driver(
    graph_driver: Driver, other_stages: Mapping[str, Driver], dev_like: Path
) -> Iterator[Driver]:
    """A driver with an image encoder of its own, and the stages that are there."""
    spec = replace(tiny_spec(dev_like), tasks=("text-to-image", "image-to-image", "inpaint"))
    config = StagesConfig(image_encoder=ImageEncoderOptions(health_check_period_s=1))
    denoiser: Driver = ray.serve.get_deployment_handle(StageName.DENOISER, GRAPH_APP)
    handles = {**other_stages, StageName.DENOISER.key: denoiser}
    wait_until(lambda: is_whole(GRAPH_APP))
    application = bind_driver(spec, config, handles)
    yield ray.serve.run(application, name=APP, route_prefix=None)
    ray.serve.delete(APP)


def _painted(name: str = "painted", **changes: Any) -> GenerationJob:
    values: dict[str, Any] = {"image": IMAGE, "mask": MASK, "steps": 4, "strength": 0.8}
    return painted_job(name, **{**values, **changes})


def _redrawn(name: str = "redrawn", *, strength: float = 0.6, steps: int = 5) -> GenerationJob:
    image = recipe(PictureRole.IMAGE, IMAGE, name="image")
    job = make_job(name, steps=steps)
    return with_pictures(job, (image,), task=Task.IMAGE_TO_IMAGE, strength=strength)


def _generate(driver: Driver, job: GenerationJob) -> GenerationResult:
    return driver.generate.remote(job).result(timeout_s=PATIENCE_S)


def _file(result: GenerationResult) -> FinishedImage:
    (image,) = result.images
    return image


def _steps(driver: Driver) -> int:
    stats: EngineStats = driver.engine.remote().result(timeout_s=PATIENCE_S)
    return stats.steps


def _by_hand(job: GenerationJob, folder: Path) -> np.ndarray:
    """The same through the stages in this process, without what is pasted back."""
    source, params = str(folder), job.params
    (text,) = TextEncoderStage.load(source).encode(
        [TextPrompt(prompt=params.prompt, max_sequence_length=params.max_sequence_length)]
    )
    pictures = ImageEncoderStage.load(source).encode(prepare_all(job.recipes, Files()))
    denoiser = DenoiserStage.load(source)
    latent_job = LatentJob.of(params, 0, group="g", work_id="w")
    work = denoiser.admit(latent_job, text, None, None, pictures)
    while not work.is_done:
        denoiser.tick([work])
    (image,) = VaeDecoderStage.load(source).decode([denoiser.finish(work)])
    assert not isinstance(image, Exception)
    return image.pixels


def test_an_image_is_drawn_from_an_image(driver: Driver, dev_like: Path) -> None:
    before = _steps(driver)
    first, second = (_file(_generate(driver, _redrawn())) for _ in range(2))
    assert _steps(driver) - before == 2 * 3  # the strength leaves out two of five
    assert_same_image(pixels_of(first), _by_hand(_redrawn(), dev_like))
    assert first.sha256 == second.sha256
    assert first.timings["encode_image"] > second.timings["encode_image"] == 0.0
    weaker = _file(_generate(driver, _redrawn(strength=0.2)))
    assert weaker.sha256 != first.sha256


def test_what_the_mask_does_not_cover_is_the_inputs_own(driver: Driver, dev_like: Path) -> None:
    pasted = pixels_of(_file(_generate(driver, _painted())))
    assert np.array_equal(pasted[~COVERED], PIXELS[~COVERED])
    assert not np.array_equal(pasted[COVERED], PIXELS[COVERED])
    job = _painted(paste_back=False)
    own = pixels_of(_file(_generate(driver, job)))
    assert not np.array_equal(own[~COVERED], PIXELS[~COVERED])
    assert_same_image(own, _by_hand(job, dev_like))


def test_a_mask_that_covers_nothing_returns_the_input(driver: Driver) -> None:
    before = _steps(driver)
    result = _generate(driver, _painted(mask=NOTHING))
    assert np.array_equal(pixels_of(_file(result)), PIXELS)
    assert result.warnings[0].startswith("mask: covers nothing")
    assert _steps(driver) == before


def test_the_file_says_what_it_was_drawn_from(driver: Driver) -> None:
    job = _painted()
    found = read_receipt(base64.b64decode(_file(_generate(driver, job)).b64 or ""))
    digests = [each.source.sha256 for each in job.recipes if each.source is not None]
    assert [each["sha256"] for each in found.pictures] == digests
    assert "image_encoder" in [stage.part for stage in found.stages]
    assert found.request["strength"] == 0.8


def test_an_image_encoder_that_is_killed_is_asked_again(driver: Driver) -> None:
    expected = _file(_generate(driver, _painted())).sha256
    (encoder,) = replica_processes(StageName.IMAGE_ENCODER, app=APP)

    def asked() -> int:
        return driver.calls_made.remote(StageName.IMAGE_ENCODER).result(timeout_s=PATIENCE_S)

    before = asked()
    with paused([encoder]):  # so that it dies with the pictures, be they asked for or begun
        disturbed = driver.generate.remote(_painted("disturbed"))
        wait_until(lambda: asked() > before)
        kill(encoder, StageName.IMAGE_ENCODER, app=APP)
    assert _file(disturbed.result(timeout_s=PATIENCE_S)).sha256 == expected
    wait_until(lambda: is_whole(APP))


def test_a_flawed_picture_is_told_as_the_requests_fault_without_a_traceback(
    driver: Driver,
) -> None:
    log = ReplicaLogs(APP, "ImageEncoder")
    for job in (_painted(image=IMAGE[:200]), _painted(mask=b"no picture")):
        with pytest.raises(InvalidRequest) as caught:
            _generate(driver, job)
        assert caught.value.param in ("image", "mask")
    assert "Traceback" not in "".join(log.lines())


def test_the_ingress_process_reads_no_pictures(driver: Driver) -> None:
    _generate(driver, _painted())
    for module in ("torch", "PIL"):
        assert not driver.loaded.remote(module).result(timeout_s=PATIENCE_S), module
