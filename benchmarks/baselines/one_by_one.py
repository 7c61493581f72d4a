"""`diffusers.FluxPipeline`, one image after the other, in a process of its own.

No server and no HTTP: prompt in, base64 of a PNG out, as in the README of any model. The process is
started anew (not forked), and waits without using the CPU while others are measured.
"""

from __future__ import annotations

import base64
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from deployments.storage.encode import encode_image
from pipelines.catalog import ModelSpec


class Block(NamedTuple):
    """What was drawn in `seconds`."""

    images: int
    seconds: float


class OneByOne:
    """A child process with a pipeline on `threads` threads; use it as a context manager."""

    def __init__(self, spec: ModelSpec, *, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, threads), daemon=True)

    def __enter__(self) -> OneByOne:
        self._process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    @property
    def pid(self) -> int:
        """The process, once it has been started."""
        assert self._process.pid is not None
        return self._process.pid

    def draw(self, bodies: Sequence[Mapping[str, object]], *, seconds: float) -> Block:
        """Draw requests for one image in turn, from the start again at the end, for `seconds`.

        The image under way at the end is finished and counted, with its time.
        """
        self._connection.send((list(bodies), seconds))
        return self._connection.recv()


def _serve(connection: Connection, spec: ModelSpec, threads: int) -> None:
    """The child: draws blocks until it is terminated."""
    import torch
    from diffusers import FluxPipeline

    torch.set_num_threads(threads)
    pipeline: Any = FluxPipeline.from_pretrained(spec.source)
    pipeline.set_progress_bar_config(disable=True)
    while True:
        bodies, seconds = connection.recv()
        began, images = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            _draw(pipeline, spec, bodies[images % len(bodies)])
            images += 1
        connection.send(Block(images, time.perf_counter() - began))


def _draw(pipeline: Any, spec: ModelSpec, body: Mapping[str, Any]) -> str:
    import torch

    width, height = (int(side) for side in body["size"].split("x"))
    (image,) = pipeline(
        prompt=body["prompt"],
        width=width,
        height=height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        max_sequence_length=spec.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(body["seed"]),
    ).images
    data = encode_image(
        np.asarray(image), output_format="png", output_compression=95, parameters=body["prompt"]
    )
    return base64.b64encode(data).decode("ascii")
