from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deployments.stages.finisher
from deployments.options.stages import FinisherOptions, StorageOptions
from deployments.stages.finisher import Finisher
from deployments.storage.store import LocalStore
from pipelines.contracts import DecodedImage, FinishSpec
from pipelines.errors import StageFailed


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
