from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

import deployments.stages.finisher
from deployments.options.stages import FinisherOptions, StorageOptions
from deployments.stages.finisher import Finisher
from deployments.storage.receipt import MAX_BYTES, parse_receipt, receipt_text
from deployments.storage.receipt_reading import find_receipt, read_receipt
from deployments.storage.store import LocalStore
from pipelines.contracts import DecodedImage, FinishSpec
from pipelines.errors import ConfigurationError, StageFailed
from tests.deployments.certificates import write_certificate
from tests.deployments.receipts import FINISH, PARAMS, STAGES, receipt


@pytest.fixture
def finisher(tmp_path: Path) -> Finisher:
    return Finisher(FinisherOptions(), StorageOptions(directory=tmp_path, max_bytes=100_000))


@pytest.fixture
def image() -> DecodedImage:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return DecodedImage(pixels=pixels, timings={"decode": 1.0})


async def test_inline_and_stored_are_the_same_file(
    finisher: Finisher, image: DecodedImage, tmp_path: Path
) -> None:
    done = await finisher.finish(image, FinishSpec(seed=3, store=True, parameters="p"))
    assert done.b64 is not None
    assert done.file_id is not None
    data = base64.b64decode(done.b64)
    stored = LocalStore(tmp_path, ttl_s=100, max_bytes=100_000).get(done.file_id)
    assert stored.data == data
    assert stored.content_type == "image/png"
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    assert done.num_bytes == len(data)
    assert (done.width, done.height, done.seed) == (48, 32, 3)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(np.asarray(opened), image.pixels)
    assert done.timings["decode"] == 1.0
    assert {"finish_wait", "finish", "store"} <= done.timings.keys()


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_only_what_is_asked_for(
    finisher: Finisher, image: DecodedImage, tmp_path: Path
) -> None:
    done = await finisher.finish(image, FinishSpec(seed=0, output_format="jpeg"))
    assert done.file_id is None
    done = await finisher.finish(
        image, FinishSpec(seed=0, output_format="webp", inline=False, store=True)
    )
    assert done.b64 is None
    assert done.file_id is not None
    assert done.output_format == "webp"
    assert _names(tmp_path) == [f"{done.file_id}.webp"]


async def test_encoding_stays_off_the_event_loop(
    finisher: Finisher, image: DecodedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = deployments.stages.finisher.encode_image
    threads: list[threading.Thread] = []

    def recording(*args: Any, **kwargs: Any) -> bytes:
        threads.append(threading.current_thread())
        return encode(*args, **kwargs)

    monkeypatch.setattr(deployments.stages.finisher, "encode_image", recording)
    await asyncio.gather(*(finisher.finish(image, FinishSpec(seed=i)) for i in range(3)))
    assert len(threads) == 3
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("inline", [True, False])
async def test_a_full_store_costs_the_link_not_the_picture(
    tmp_path: Path, image: DecodedImage, inline: bool
) -> None:
    small = Finisher(FinisherOptions(), StorageOptions(directory=tmp_path, max_bytes=10))
    done = await small.finish(image, FinishSpec(seed=0, inline=inline, store=True))
    assert done.file_id is None
    assert done.not_stored.startswith("storage.max_bytes: 10 is less than one file")
    assert done.b64 is not None
    assert hashlib.sha256(base64.b64decode(done.b64)).hexdigest() == done.sha256
    small.check_health()
    assert (await small.finish(image, FinishSpec(seed=0))).not_stored == ""


async def test_an_unknown_format_is_the_stages_failure(
    finisher: Finisher, image: DecodedImage
) -> None:
    with pytest.raises(StageFailed):
        await finisher.finish(image, FinishSpec(seed=0, output_format="gif"))
    assert await finisher.ready()


async def test_the_receipt_names_the_stages_that_drew_the_image(
    finisher: Finisher, image: DecodedImage
) -> None:
    drawn = replace(image, drawn_by=STAGES)
    spec = replace(FINISH, receipt=receipt_text(PARAMS, FINISH, steps_run=11, cuts=()))
    done = await finisher.finish(drawn, spec)
    assert read_receipt(base64.b64decode(done.b64 or "")) == parse_receipt(receipt())


async def test_a_receipt_that_would_be_too_long_costs_no_picture(
    finisher: Finisher, image: DecodedImage, caplog: pytest.LogCaptureFixture
) -> None:
    params = replace(PARAMS, prompt="x" * MAX_BYTES)
    spec = replace(FINISH, receipt=receipt_text(params, FINISH, steps_run=1, cuts=()))
    done = await finisher.finish(image, spec)
    assert find_receipt(base64.b64decode(done.b64 or "")) is None
    assert "a file has no receipt" in caplog.text


async def test_what_is_stored_and_hashed_is_the_signed_file(
    tmp_path: Path, image: DecodedImage
) -> None:
    files = write_certificate(tmp_path)
    options = FinisherOptions.model_validate(
        {"c2pa": {"certificate_chain": files.chain, "private_key": files.key}}
    )
    signing = Finisher(options, StorageOptions(directory=tmp_path / "files"))
    spec = replace(FINISH, receipt=receipt_text(PARAMS, FINISH, steps_run=1, cuts=()), store=True)
    done = await signing.finish(replace(image, drawn_by=STAGES), spec)
    data = base64.b64decode(done.b64 or "")
    assert signing._store.get(done.file_id or "").data == data
    assert (done.sha256, done.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    with c2pa.Reader("image/png", io.BytesIO(data)) as reader:
        assert reader.get_validation_state() == "Valid"
    assert read_receipt(data).stages == STAGES


def test_a_certificate_that_cannot_sign_is_found_at_the_start(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    options = FinisherOptions.model_validate(
        {"c2pa": {"certificate_chain": files.chain, "private_key": files.other_key}}
    )
    with pytest.raises(ConfigurationError, match=r"finisher\.c2pa\.private_key: is not the key"):
        Finisher(options, StorageOptions(directory=tmp_path))


async def test_what_the_mask_does_not_cover_is_the_inputs_own_to_the_byte(
    finisher: Finisher, image: DecodedImage
) -> None:
    original = DecodedImage(pixels=255 - image.pixels)
    mask = np.zeros((32, 48), dtype=bool)
    mask[4:28, 8:40] = True
    done = await finisher.finish(image, FinishSpec(seed=0), original, mask)
    with Image.open(io.BytesIO(base64.b64decode(done.b64 or ""))) as opened:
        pixels = np.asarray(opened)
    assert np.array_equal(pixels[~mask], original.pixels[~mask])
    assert np.array_equal(pixels[12:20, 18:30], image.pixels[12:20, 18:30])
    plain = await finisher.finish(image, FinishSpec(seed=0))
    with Image.open(io.BytesIO(base64.b64decode(plain.b64 or ""))) as opened:
        assert np.array_equal(np.asarray(opened), image.pixels)
