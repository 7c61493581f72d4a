"""`diffusers.FluxPipeline` as the oracle, and how two images are compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import FluxPipeline

from pipelines.contracts import GenerationParams


class Difference(NamedTuple):
    """`max_abs` in levels of 255 over all channels; `identical` is the share of equal values."""

    max_abs: int
    identical: float

    @property
    def is_exact(self) -> bool:
        """The project's promise: at most one level, and 99.9 % of the values identical."""
        return self.max_abs <= 1 and self.identical >= 0.999


def compare(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """The difference of two uint8 images of one shape."""
    gap = np.abs(ours.astype(np.int16) - theirs.astype(np.int16))
    return Difference(int(gap.max()), float((gap == 0).mean()))


@lru_cache(maxsize=4)
def load_oracle(folder: str) -> Any:
    """The pipeline of a folder, in float32 on the CPU."""
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def oracle_images(folder: Path | str, params: GenerationParams) -> list[np.ndarray]:
    """What `FluxPipeline` draws for `params`: image i alone, with a generator seeded `seed + i`."""
    images = []
    for i in range(params.num_images):
        result = load_oracle(str(folder))(
            prompt=params.prompt,
            negative_prompt=params.negative_prompt,
            true_cfg_scale=params.true_cfg_scale,
            height=params.height,
            width=params.width,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            max_sequence_length=params.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(params.seed + i),
        )
        images.append(np.asarray(result.images[0]))
    return images


def oracle_batch(folder: Path | str, batch: Sequence[GenerationParams]) -> list[np.ndarray]:
    """What `FluxPipeline` draws in one batch: an image each of `batch`, which differ in prompt and
    seed alone. Faster than one after the other where they have many steps."""
    first = batch[0]
    result = load_oracle(str(folder))(
        prompt=[params.prompt for params in batch],
        height=first.height,
        width=first.width,
        num_inference_steps=first.num_inference_steps,
        guidance_scale=first.guidance_scale,
        max_sequence_length=first.max_sequence_length,
        generator=[torch.Generator("cpu").manual_seed(params.seed) for params in batch],
    )
    return [np.asarray(image) for image in result.images]
