"""What can be set for the image encoder: whether there is one, and how large a picture may be."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from deployments.options.stage import BatchingStageOptions
from deployments.options.weights_source import parse_source
from pipelines.catalog import ModelSpec
from pipelines.tasks import Task


def _source(value: str) -> str:
    parse_source(value, field="image_encoder.variations")
    return value


class ImageEncoderOptions(BatchingStageOptions):
    """The pool that reads pictures which come with requests, and encodes them.

    A file is measured before anything of it is decoded: what is over a bound costs nothing.
    """

    section: ClassVar[str] = "image_encoder"
    live: ClassVar[tuple[str, ...]] = ("max_batch_size", "cache_mib", "autoscaling")

    enabled: bool | None = None
    """Whether requests can bring pictures along; left out, if the model has a task for them."""
    variations: Annotated[str, AfterValidator(_source)] | None = None
    """Weights of FLUX.1 Redux, which variations need: as `model_source`, a folder, `hf://` or
    `s3://`. They are no part of the model, and their memory is not known."""
    num_cpus: NonNegativeFloat = 0.1
    """CPUs that Ray reserves for each replica; fractions share a core."""
    max_batch_size: PositiveInt = 4
    """Pictures that run together at most, each encoded by itself."""
    cache_mib: NonNegativeInt = 256
    """Memory of each replica for pictures that were encoded lately, and for their pixels: 2 MiB and
    3 MiB of one of 1024x1024 pixels in float32; 0 keeps none."""
    max_file_mib: PositiveInt = 32
    """Of a picture's file. The ingress has bounds of its own, of what it takes in."""
    max_pixels: PositiveInt = 8192 * 8192
    """Of a picture as it comes, before it is fitted to the size that is drawn."""
    tile_from_pixels: PositiveInt | None = None
    """Pixels from which on a picture is encoded in overlapping tiles, which takes less memory and
    changes it a little; left out, from where it would take a quarter of the device's memory. One
    that fits into a tile (1024x1024 for FLUX.1) is never tiled."""


def takes_pictures(spec: ModelSpec) -> bool:
    """Whether a task of the model takes a picture: all but drawing from a text do."""
    return any(task != Task.TEXT_TO_IMAGE for task in spec.tasks)
