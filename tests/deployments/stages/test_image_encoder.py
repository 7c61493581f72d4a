"""The image encoder's deployment: reads, fits and encodes, each picture of a tenant once."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines.pictures.prepare
from deployments.metrics import declared as metrics
from deployments.options.stages import ImageEncoderOptions, StorageOptions, WeightsOptions
from deployments.stages.image_encoder import ImageEncoder, content_of
from deployments.storage.store import open_store
from deployments.wire.packed import PackedPicture
from deployments.wire.tensors import unpack_picture
from pipelines.contracts import EncodedPicture, PreparedPicture
from pipelines.errors import FileNotStored, InvalidRequest, StageFailed
from pipelines.pictures.recipe import Padding, PictureRecipe
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.tasks import PictureRole
from pipelines.tiling import Tiling
from tests.deployments.pictures import recipe
from tests.recorder import Recorder, recorded
from tests.specs import tiny_spec

__all__ = ["recorded"]

Make = Callable[..., ImageEncoder]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
IMAGE = png(PIXELS)
MASK = np.zeros((64, 48), dtype=np.uint8)
MASK[8:40, 16:32] = 255


@pytest.fixture
def make(dev_like: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[ImageEncoder] = []

    def encoder(**options: Any) -> ImageEncoder:
        storage = StorageOptions(directory=tmp_path)
        each = ImageEncoder(
            tiny_spec(dev_like), ImageEncoderOptions(**options), WeightsOptions(), storage
        )
        made.append(each)
        return each

    yield encoder
    for each in made:
        each.close()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[PictureRole]:
    """What reaches the stage."""
    found: list[PictureRole] = []
    encode = ImageEncoderStage.encode

    def counting(
        self: ImageEncoderStage, pictures: Sequence[PreparedPicture]
    ) -> list[EncodedPicture]:
        found.extend(picture.role for picture in pictures)
        return encode(self, pictures)

    monkeypatch.setattr(ImageEncoderStage, "encode", counting)
    return found


def asked(data: bytes = IMAGE, role: PictureRole = PictureRole.IMAGE, **rest: Any) -> PictureRecipe:
    """A recipe as it comes to the stage: without the file, which comes beside it."""
    made = recipe(role, data, name=rest.pop("name", "image"), height=64, width=48, **rest)
    assert made.source is not None
    return replace(made, source=replace(made.source, data=None))


def mask_recipe(pixels: np.ndarray = MASK) -> tuple[PictureRecipe, bytes]:
    data = png(pixels)
    return asked(data, PictureRole.MASK, name="mask"), data


async def test_it_encodes_as_the_stage(make: Make, dev_like: Path) -> None:
    encoder = make()
    packed = await encoder.encode_image(asked(), IMAGE)
    prepared = PreparedPicture(role=PictureRole.IMAGE, pixels=PIXELS)
    (expected,) = ImageEncoderStage.load(str(dev_like)).encode([prepared])
    arrived = unpack_picture(packed)
    assert torch.equal(arrived.values, expected.values)
    assert (arrived.digest, arrived.shift, arrived.scale) == (
        expected.digest,
        expected.shift,
        expected.scale,
    )
    assert (arrived.role, arrived.height, arrived.width) == (PictureRole.IMAGE, 64, 48)
    assert packed.timings["encode_image"] > 0
    assert [span.name for span in packed.spans] == ["encode_image.wait", "encode_image.run"]
    (stage,) = packed.drawn_by
    assert (stage.part, len(stage.weights or "")) == ("image_encoder", 64)
    assert await encoder.ready()
    encoder.check_health()


async def test_it_says_of_a_picture_that_it_was_tiled(make: Make, dev_like: Path) -> None:
    encoder = make(tile_from_pixels=64 * 48)
    packed = await encoder.encode_image(asked(), IMAGE)
    assert [stage.tiling for stage in packed.drawn_by] == [Tiling(size=32, from_pixels=64 * 48)]
    prepared = PreparedPicture(role=PictureRole.IMAGE, pixels=PIXELS)
    stage = ImageEncoderStage.load(str(dev_like), tile_from_pixels=64 * 48)
    assert torch.equal(unpack_picture(packed).values, stage.encode([prepared])[0].values)
    whole = await make(tile_from_pixels=64 * 48 + 1).encode_image(asked(), IMAGE)
    assert [stage.tiling for stage in whole.drawn_by] == [None]
    assert not torch.equal(unpack_picture(whole).values, unpack_picture(packed).values)


async def test_equal_pictures_are_encoded_once_whatever_they_are_called(
    make: Make, runs: list[PictureRole], recorded: Recorder
) -> None:
    encoder = make()
    first, second = await asyncio.gather(
        encoder.encode_image(asked(), IMAGE), encoder.encode_image(asked(name="picture"), IMAGE)
    )
    weaker = asked()
    weaker = replace(weaker, use=replace(weaker.use, scale=0.5))
    third = await encoder.encode_image(weaker, IMAGE)
    assert runs == [PictureRole.IMAGE]
    assert first.values is second.values is third.values
    assert third.timings == {"encode_image_wait": 0.0, "encode_image": 0.0}
    for result in ("encoded", "shared", "cached"):
        assert recorded.total(metrics.PICTURES, result=result) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "another"},
        {"background": (0, 0, 0)},
        {"fit": "contain"},
        {"padding": Padding(left=16)},
        {"role": PictureRole.REFERENCE},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_others_are_not(make: Make, runs: list[PictureRole], change: dict[str, Any]) -> None:
    """Nobody learns from the time what another tenant has sent."""
    encoder = make()
    await encoder.encode_image(asked(), IMAGE)
    await encoder.encode_image(asked(**change), IMAGE)
    assert len(runs) == 2


async def test_another_file_of_the_same_name_is_another_picture(
    make: Make, runs: list[PictureRole]
) -> None:
    encoder, other = make(), png(PIXELS[::-1])
    first = await encoder.encode_image(asked(), IMAGE)
    second = await encoder.encode_image(asked(other), other)
    assert len(runs) == 2
    assert first.digest != second.digest


async def test_the_cache_is_bounded_in_bytes(make: Make, runs: list[PictureRole]) -> None:
    encoder = make(cache_mib=0)
    for _ in range(2):
        await encoder.encode_image(asked(), IMAGE)
    assert len(runs) == 2
    encoder.reconfigure({"cache_mib": 1})
    for _ in range(2):
        await encoder.encode_image(asked(), IMAGE)
    assert len(runs) == 3


async def test_it_is_read_once_and_off_the_event_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, threads = pipelines.pictures.prepare.prepare, list[threading.Thread]()

    def recording(*args: Any, **options: Any) -> PreparedPicture:
        threads.append(threading.current_thread())
        return prepare(*args, **options)

    monkeypatch.setattr(pipelines.pictures.prepare, "prepare", recording)
    encoder = make()
    _, image = await asyncio.gather(
        encoder.encode_image(asked(), IMAGE), encoder.picture_pixels(asked(), IMAGE)
    )
    assert np.array_equal(image.pixels, PIXELS)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_mask(make: Make) -> None:
    encoder = make()
    made, data = mask_recipe()
    assert np.array_equal(await encoder.mask_pixels(made, data), MASK > 0)
    assert not await encoder.is_mask_empty(made, data)
    packed = await encoder.encode_image(made, data)
    values = unpack_picture(packed).values
    assert torch.equal(values, torch.from_numpy((MASK > 0).astype(np.float32))[None])
    assert packed.drawn_by == ()  # no model has a part in it
    empty, data = mask_recipe(np.zeros_like(MASK))
    assert await encoder.is_mask_empty(empty, data)


async def test_a_stored_file_is_read_where_it_is_kept(make: Make, tmp_path: Path) -> None:
    store = open_store(StorageOptions(directory=tmp_path))
    file_id = store.put(IMAGE, "image/png")
    encoder, made = make(), asked()
    assert made.source is not None
    stored = replace(made, source=replace(made.source, file_id=file_id))
    assert np.array_equal((await encoder.picture_pixels(stored)).pixels, PIXELS)
    gone = replace(asked(tenant="b"), source=replace(made.source, file_id="0" * 32))
    with pytest.raises(FileNotStored):
        await encoder.encode_image(gone)


async def test_bytes_that_are_not_those_named_are_refused(make: Make) -> None:
    """They would be kept, and given to who asks for the others."""
    encoder = make()
    with pytest.raises(InvalidRequest, match="SHA-256 differs"):
        await encoder.encode_image(asked(), png(PIXELS[::-1]))


async def test_what_is_no_picture_is_the_clients_fault(make: Make) -> None:
    encoder, data = make(), b"not a picture"
    for _ in range(10):
        with pytest.raises(InvalidRequest) as caught:
            await encoder.encode_image(asked(data), data)
        assert caught.value.param == "image"
    encoder.check_health()
    assert isinstance(await encoder.encode_image(asked(), IMAGE), PackedPicture)


@pytest.mark.parametrize("bound", [{"max_pixels": 64 * 48 - 1}, {"max_file_mib": 1}])
async def test_one_over_a_bound_is_refused_before_it_is_decoded(
    make: Make, bound: dict[str, int]
) -> None:
    encoder = make(**bound)
    data = IMAGE + (b"\0" * 2**20 if "max_file_mib" in bound else b"")
    with pytest.raises(InvalidRequest):
        await encoder.picture_pixels(asked(data), data)


async def test_one_that_cannot_be_encoded_fails_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ImageEncoderStage.encode

    def fail_on_references(self: Any, pictures: Sequence[PreparedPicture]) -> Any:
        if any(picture.role is PictureRole.REFERENCE for picture in pictures):
            raise InvalidRequest("reference: no", param="reference")
        return encode(self, pictures)

    monkeypatch.setattr(ImageEncoderStage, "encode", fail_on_references)
    encoder = make()
    busy = asyncio.create_task(encoder.encode_image(asked(tenant="first"), IMAGE))
    bad, good = await asyncio.gather(
        encoder.encode_image(asked(role=PictureRole.REFERENCE), IMAGE),
        encoder.encode_image(asked(), IMAGE),
        return_exceptions=True,
    )
    await busy
    assert isinstance(bad, InvalidRequest)
    assert isinstance(good, PackedPicture)


async def test_a_failure_is_the_stages_and_is_not_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make()

    def fail(self: Any, pictures: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(ImageEncoderStage, "encode", fail)
        with pytest.raises(StageFailed):
            await encoder.encode_image(asked(), IMAGE)
    assert (await encoder.encode_image(asked(), IMAGE)).num_bytes > 0


async def test_reading_counts_as_work(make: Make) -> None:
    encoder = make()
    made, data = mask_recipe()
    await encoder.encode_image(made, data)
    demand = encoder.demand
    assert (demand.done, demand.queued_s) == (1, 0.0)
    assert demand.busy_s > 0


def test_what_a_picture_is_called_is_no_part_of_it() -> None:
    assert content_of(asked(name="a")) == content_of(asked(name="b"))
    assert content_of(asked()) != content_of(asked(b"other"))
