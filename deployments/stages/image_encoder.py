"""ImageEncoder: pictures that come with requests, read, fitted and encoded.

Reading is seconds of work on large pictures and may be slow by intent, so it runs in threads of its
own, beside encoding. What was made lately is kept, by the pictures' contents and by tenant, since
nobody may learn from the time what others have sent; losing a replica loses nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from deployments.metrics import declared as metrics
from deployments.names import StageName
from deployments.options.stages import ImageEncoderOptions, StorageOptions, WeightsOptions
from deployments.single_flight import SingleFlight
from deployments.stages.byte_cache import ByteCache
from deployments.stages.provenance import OwnProvenance, stage_provenance
from deployments.stages.shim import BatchingShim
from deployments.storage.store import open_store
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from deployments.wire.packed import PackedPicture
from deployments.wire.tensors import pack_picture
from pipelines.batching.demand import Demand, Meter
from pipelines.catalog import ModelSpec
from pipelines.contracts import DecodedImage, PreparedPicture, ServiceTerms
from pipelines.errors import InvalidRequest, SluiceError
from pipelines.families import family_of
from pipelines.pictures.recipe import PictureRecipe, PictureSource
from pipelines.provenance import Provenance, joined, of_size
from pipelines.tasks import PictureRole, PictureUse
from pipelines.tracing.open_spans import waited_and_ran

if TYPE_CHECKING:
    import numpy as np


REDUX_PARTS = ("model_index.json", "feature_extractor", "image_encoder", "image_embedder")
"""Of the folder of FLUX.1 Redux."""


class _Asked(NamedTuple):
    """What is to be made: of a recipe, whose files come beside it (None where it has none, or the
    store has them). With `as_text`, what a variation looks at."""

    recipe: PictureRecipe
    source: bytes | None
    mask: bytes | None
    as_text: bool = False

    @property
    def content(self) -> _Content:
        return _Content(content_of(self.recipe), self.as_text)


class _Content(NamedTuple):
    """What the result depends on: two that are equal are made once."""

    recipe: PictureRecipe
    as_text: bool


class _Ran(NamedTuple):
    """A picture that was encoded, and the seconds that its reading and encoding took."""

    picture: PackedPicture
    seconds: float


class ImageEncoder(BatchingShim[ImageEncoderOptions, PreparedPicture, PackedPicture]):
    """Ray Serve deployment over `pipelines.pictures` and `ImageEncoderStage`.

    Each method takes a recipe, and the bytes of its source and of its mask unless the store has
    them. All raise InvalidRequest for what is no picture within the bounds, FileNotStored for a
    stored one that is gone, and StageFailed.
    """

    def __init__(
        self,
        spec: ModelSpec,
        options: ImageEncoderOptions,
        weights: WeightsOptions = WeightsOptions(),
        storage: StorageOptions | None = None,
    ) -> None:
        super().__init__(StageName.IMAGE_ENCODER, options, phase="encode_image")
        self._variation: OwnProvenance | None = None
        with self._starting():
            import torch

            from pipelines.stages.image_encoder import ImageEncoderStage

            torch.set_num_threads(options.resolved_threads)
            parts = family_of(spec).encoder_files
            folder = fetch(spec.source, parts, weights)
            self._stage = ImageEncoderStage.load(
                str(folder),
                family=spec.family,
                device=options.resolved_device,
                dtype=options.dtype,
                variations=None if options.variations is None else self._fetched(weights),
                tile_from_pixels=options.tile_from_pixels,
                device_share=options.device_share,
            )
            self._tells_provenance(
                OwnProvenance(
                    stage_provenance(
                        "image_encoder",
                        device=options.resolved_device,
                        dtype=options.dtype,
                        tiling=self._stage.tiling,
                    ),
                    Fingerprint(folder, parts, weights),
                )
            )
            self._store = open_store(storage or StorageOptions())
            self._readers = ThreadPoolExecutor(
                max_workers=options.resolved_threads, thread_name_prefix="picture-reader"
            )
            self._opened.callback(self._readers.shutdown, wait=False)
            self._reading = Meter(lanes=options.resolved_threads)
        self._start_batching(
            self._run, key=lambda picture: None if picture.pixels is None else picture.pixels.shape
        )
        self._cache: ByteCache[tuple[str, _Content], PreparedPicture | PackedPicture]
        self._cache = ByteCache(options.cache_mib * 2**20)
        self._preparations: SingleFlight[_Content, PreparedPicture] = SingleFlight()
        self._encodings: SingleFlight[_Content, _Ran] = SingleFlight()

    @property
    def demand(self) -> Demand:
        reading, encoding = self._reading.demand, super().demand
        return Demand(
            reading.queued_s + encoding.queued_s,
            reading.busy_s + encoding.busy_s,
            encoding.done,
        )

    async def encode_image(
        self,
        recipe: PictureRecipe,
        source: bytes | None = None,
        mask: bytes | None = None,
        terms: ServiceTerms = ServiceTerms(),
        as_text: bool = False,
    ) -> PackedPicture:
        """The picture as a denoiser takes it, from the cache if it was encoded lately; `as_text`
        for what a variation looks at.

        `timings` holds "encode_image_wait" and "encode_image" as this caller met them, reading
        included.
        """
        asked = _Asked(recipe, source, mask, as_text)
        key = asked.content
        kept = self._cache.get(("encoded", key))
        if isinstance(kept, PackedPicture):
            metrics.PICTURES.add(result="cached")
            return await self._told(kept, waited=0.0, ran=0.0, cached=True)
        with self._boundary.call():
            shares = self._encodings.is_running(key)
            metrics.PICTURES.add(result="shared" if shares else "encoded")
            began = asyncio.get_running_loop().time()
            picture, seconds = await self._encodings.run(key, lambda: self._encode(asked, terms))
            elapsed = asyncio.get_running_loop().time() - began
            busy = min(seconds, elapsed)
            self._boundary.took(wait=elapsed - busy, run=busy)
            return await self._told(picture, waited=elapsed - busy, ran=busy, cached=False)

    async def picture_pixels(
        self,
        recipe: PictureRecipe,
        source: bytes | None = None,
        mask: bytes | None = None,
        terms: ServiceTerms = ServiceTerms(),
    ) -> DecodedImage:
        """The picture's pixels at the size at which it is encoded, before anything is masked."""
        with self._boundary.call():
            prepared = await self._prepared(_Asked(recipe, source, mask))
            assert prepared.pixels is not None
            return DecodedImage(pixels=prepared.pixels)

    async def mask_pixels(
        self,
        recipe: PictureRecipe,
        source: bytes | None = None,
        mask: bytes | None = None,
        terms: ServiceTerms = ServiceTerms(),
    ) -> np.ndarray:
        """(height, width), bool: True where to draw anew."""
        with self._boundary.call():
            prepared = await self._prepared(_Asked(recipe, source, mask))
            assert prepared.mask is not None
            return prepared.mask

    async def is_mask_empty(
        self,
        recipe: PictureRecipe,
        source: bytes | None = None,
        mask: bytes | None = None,
        terms: ServiceTerms = ServiceTerms(),
    ) -> bool:
        """Whether there is nowhere to draw anew."""
        return not (await self.mask_pixels(recipe, source, mask, terms)).any()

    async def provenance(self) -> Provenance:
        """As every stage's, and that of the model that variations need, if it has one."""
        variation = () if self._variation is None else await self._variation.known()
        return joined(await super().provenance(), variation)

    def _fetched(self, weights: WeightsOptions) -> str:
        """The folder of the model that variations need."""
        assert self._options.variations is not None
        folder = fetch(self._options.variations, REDUX_PARTS, weights)
        self._variation = OwnProvenance(
            stage_provenance(
                "variation", device=self._options.resolved_device, dtype=self._options.dtype
            ),
            Fingerprint(folder, REDUX_PARTS, weights),
        )
        return str(folder)

    def _take_over(self, options: ImageEncoderOptions) -> None:
        super()._take_over(options)
        self._cache.resize(options.cache_mib * 2**20)

    async def _told(
        self, picture: PackedPicture, *, waited: float, ran: float, cached: bool
    ) -> PackedPicture:
        """As its caller met it; of one from the cache, its one span."""
        wait, run = waited_and_ran(
            "encode_image",
            waited,
            ran,
            cached=cached,
            role=str(picture.role),
            replica=self._boundary.replica,
        )
        return replace(
            picture,
            timings={"encode_image_wait": waited, "encode_image": ran},
            spans=(run,) if cached else (wait, run),
            drawn_by=await self._drawn_by(picture),
        )

    async def _drawn_by(self, picture: PackedPicture) -> Provenance:
        """Of one that became text, what has made that; of a mask, nothing."""
        if picture.role is PictureRole.MASK:
            return ()
        is_text = picture.role is PictureRole.REFERENCE and picture.values.values.ndim == 2
        if is_text and self._variation is not None:
            return await self._variation.known()
        return of_size(await super().provenance(), picture.height, picture.width)

    async def _encode(self, asked: _Asked, terms: ServiceTerms) -> _Ran:
        began = time.perf_counter()
        prepared = await self._prepared(asked)
        read_s = time.perf_counter() - began
        picture, _, ran, _ = await self._batcher.submit(prepared, terms)
        self._cache.put(("encoded", asked.content), picture, picture.num_bytes)
        return _Ran(picture, read_s + ran)

    async def _prepared(self, asked: _Asked) -> PreparedPicture:
        """The picture as its recipe makes it, from the cache if that was done lately."""
        kept = self._cache.get(("prepared", asked.content))
        if isinstance(kept, PreparedPicture):
            return kept
        return await self._preparations.run(asked.content, lambda: self._prepare(asked))

    async def _prepare(self, asked: _Asked) -> PreparedPicture:
        loop = asyncio.get_running_loop()
        self._reading.came()
        try:
            prepared, seconds = await loop.run_in_executor(self._readers, self._read, asked)
        finally:
            self._reading.left()
        self._reading.ran(1, seconds)
        values = (each for each in (prepared.pixels, prepared.mask) if each is not None)
        num_bytes = sum(each.nbytes for each in values)
        self._cache.put(("prepared", asked.content), prepared, num_bytes)
        return prepared

    def _read(self, asked: _Asked) -> tuple[PreparedPicture, float]:
        """In a thread of its own; with the seconds that it took."""
        from pipelines.pictures.prepare import Files, prepare
        from pipelines.pictures.reading import PictureLimits

        began, options = time.perf_counter(), self._options
        limits = PictureLimits(
            max_bytes=options.max_file_mib * 2**20, max_pixels=options.max_pixels
        )
        recipe = asked.recipe
        whole = replace(
            recipe,
            source=self._with_bytes(recipe.source, asked.source),
            mask=self._with_bytes(recipe.mask, asked.mask),
        )
        prepared = prepare(whole, Files(limits=limits), as_text=asked.as_text)
        return prepared, time.perf_counter() - began

    def _with_bytes(self, source: PictureSource | None, data: bytes | None) -> PictureSource | None:
        """The source with its bytes, from the store unless they came along. Raises InvalidRequest
        for others than were named."""
        if source is None:
            return None
        if data is None:
            assert source.file_id is not None
            data = self._store.get(source.file_id).data
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise InvalidRequest(
                f"{source.name}: the file is not the one that was named: its SHA-256 differs",
                param=source.name,
            )
        return replace(source, data=data)

    def _run(self, pictures: Sequence[PreparedPicture]) -> list[PackedPicture | Exception]:
        return [self._encoded(each) for each in pictures]

    def _encoded(self, picture: PreparedPicture) -> PackedPicture | SluiceError:
        """One that fails does so alone: the stage encodes them one by one anyway."""
        try:
            (encoded,) = self._stage.encode([picture])
        except SluiceError as error:
            return error
        return pack_picture(encoded)


def content_of(recipe: PictureRecipe) -> PictureRecipe:
    """A recipe with nothing that its picture does not depend on: two that are equal then are made
    once. Not the files' names and bytes, which their digests stand for, nor how strongly the
    picture counts."""
    use = recipe.use
    return replace(
        recipe,
        use=PictureUse(role=use.role, height=use.height, width=use.width, kind=use.kind),
        source=_nameless(recipe.source),
        mask=_nameless(recipe.mask),
    )


def _nameless(source: PictureSource | None) -> PictureSource | None:
    return None if source is None else PictureSource(sha256=source.sha256, name="")
