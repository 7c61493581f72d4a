"""What a graph tells of a request while it is drawn, for whoever listens, here or over a stream.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deployments.wire.parts import ImageCheckpoint, ImageDrawn


class Phase(StrEnum):
    """What is done for an image, in this order; `DONE` once its file is there."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    FINISH = "finish"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Image `image` of a request is in `phase`, after `step` of `num_steps` forwards.

    `num_steps` may become fewer on the way, where `min_inference_steps` allows it.
    """

    image: int
    phase: Phase
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePreview:
    """The clean image that was predicted for image `image` after `step` of `num_steps` forwards:
    an encoded file of `media_type`, `width` x `height` pixels."""

    image: int
    step: int
    num_steps: int
    data: bytes
    media_type: str
    width: int
    height: int


GraphEvent = Progress | ImageCheckpoint | ImageDrawn | ImagePreview
