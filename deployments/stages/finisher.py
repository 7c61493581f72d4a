"""Finisher: pixels to a file with its metadata, signed, kept and/or returned as base64.

Compression, signing, hashing, base64 and storage are seconds of work on large images: all of it
runs in a worker thread, so that the replica's event loop stays free.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from deployments.metrics import declared as metrics
from deployments.names import StageName
from deployments.options.stages import C2paOptions, FinisherOptions, StorageOptions
from deployments.stages.provenance import version_of
from deployments.stages.shim import Shim
from deployments.storage.credentials import ContentCredentials
from deployments.storage.encode import CONTENT_TYPES, encode_image
from deployments.storage.receipt import MAX_BYTES, with_stages
from deployments.storage.store import open_store
from pipelines.batching.demand import Demand, Meter
from pipelines.contracts import DecodedImage, FinishedImage, FinishSpec
from pipelines.errors import StageFailed
from pipelines.pictures.pasting import paste_back
from pipelines.tracing.spans import Spans, lately

logger = logging.getLogger("ray.serve")


class Finisher(Shim[FinisherOptions]):
    """Ray Serve deployment over `encode_image` and a file store."""

    def __init__(self, options: FinisherOptions, storage: StorageOptions) -> None:
        super().__init__(StageName.FINISHER, options)
        with self._starting():
            self._store = open_store(storage)
            self._credentials = _credentials(options.c2pa)
            self._workers = ThreadPoolExecutor(
                max_workers=options.resolved_threads, thread_name_prefix="finisher"
            )
            self._opened.callback(self._workers.shutdown, wait=False)
            self._meter = Meter(lanes=options.resolved_threads)

    @property
    def demand(self) -> Demand:
        return self._meter.demand

    async def finish(
        self,
        image: DecodedImage,
        spec: FinishSpec,
        original: DecodedImage | None = None,
        mask: np.ndarray | None = None,
    ) -> FinishedImage:
        """The file as `spec` asks; `timings` gain "finish_wait", "finish" and "store".

        With `original`, what `mask` (height, width), bool, does not cover is its pixels.

        A file that cannot be stored costs the link, not the picture: it comes as base64 then, with
        the reason. Raises StageFailed.
        """
        with self._boundary.call():
            arrived = time.perf_counter()
            loop = asyncio.get_running_loop()
            self._meter.came()
            try:
                finished = await loop.run_in_executor(
                    self._workers, self._finish, image, spec, arrived, original, mask
                )
            finally:
                self._meter.left()
            timings = finished.timings
            self._meter.ran(1, timings["finish"] + timings["store"])
            self._count(finished)
            spans = (*image.spans, *self._spans(finished))
            return replace(finished, spans=spans)

    def _count(self, finished: FinishedImage) -> None:
        timings = finished.timings
        self._boundary.took(wait=timings["finish_wait"], run=timings["finish"])
        if finished.file_id is not None:
            self._boundary.took(store=timings["store"])
            metrics.STORED_BYTES.add(finished.num_bytes)

    def _spans(self, finished: FinishedImage) -> Spans:
        """What was done for a file that is there now."""
        timings, now = finished.timings, time.time_ns()
        store = lately("store", timings["store"], end_ns=now, bytes=finished.num_bytes)
        run = lately(
            "finish.run", timings["finish"], end_ns=store.start_ns, replica=self._boundary.replica
        )
        wait = lately("finish.wait", timings["finish_wait"], end_ns=run.start_ns)
        return (wait, run, store) if finished.file_id is not None else (wait, run)

    def _finish(
        self,
        image: DecodedImage,
        spec: FinishSpec,
        arrived: float,
        original: DecodedImage | None,
        mask: np.ndarray | None,
    ) -> FinishedImage:
        began = time.perf_counter()
        receipt = _receipt(image, spec)
        pixels = image.pixels
        if original is not None and mask is not None:
            pixels = paste_back(pixels, original.pixels, mask)
        data = encode_image(
            pixels,
            output_format=spec.output_format,
            output_compression=spec.output_compression,
            parameters=spec.parameters,
            receipt=receipt,
        )
        if self._credentials is not None:
            data = self._credentials.sign(data, spec.output_format, receipt)
        digest = hashlib.sha256(data).hexdigest()
        text = base64.b64encode(data).decode("ascii") if spec.inline else None
        encoded = time.perf_counter()
        file_id, not_stored = None, ""
        if spec.store:
            try:
                file_id = self._store.put(data, CONTENT_TYPES[spec.output_format], spec.owner)
            except StageFailed as error:  # the store has logged it
                metrics.UNSTORED_FILES.add()
                not_stored = error.message
                text = base64.b64encode(data).decode("ascii") if text is None else text
        return FinishedImage(
            b64=text,
            file_id=file_id,
            output_format=spec.output_format,
            width=image.width,
            height=image.height,
            seed=spec.seed,
            sha256=digest,
            num_bytes=len(data),
            not_stored=not_stored,
            timings={
                **image.timings,
                "finish_wait": began - arrived,
                "finish": encoded - began,
                "store": time.perf_counter() - encoded,
            },
        )


def _receipt(image: DecodedImage, spec: FinishSpec) -> str:
    """The file's receipt, with the stages that drew the image; "" if there is to be none."""
    if not spec.receipt:
        return ""
    receipt = with_stages(spec.receipt, image.drawn_by)
    if not receipt:
        logger.warning("a file has no receipt: it would have over %d bytes", MAX_BYTES)
    return receipt


def _credentials(options: C2paOptions) -> ContentCredentials | None:
    return ContentCredentials(options, version=version_of("sluice")) if options.is_on else None
