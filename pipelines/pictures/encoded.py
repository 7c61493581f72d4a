"""A picture before and after the image encoder: as a recipe made it, and as the denoiser takes it.

Parts of `pipelines.contracts`, which names them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.tasks import PictureRole
from pipelines.tracing.spans import Timed

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPicture:
    """A picture as a recipe made it, for the image encoder.

    `pixels` are (height, width, 3), uint8 RGB; `mask` (height, width), bool, True where to draw
    anew: of a `MASK` all there is (its `pixels` are None), of a `MASKED_IMAGE` what is greyed out.
    With `as_text` it becomes text tokens, as a variation's reference does, and not moments.
    """

    role: PictureRole
    pixels: np.ndarray | None = None
    mask: np.ndarray | None = None
    as_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture(Timed):
    """A picture as the denoiser takes it, on the CPU; no seed is in it.

    `values` are the VAE's moments (2C, h, w), means before log variances, in the encoder's dtype;
    of a mask (1, height, width), float32, 1 where to draw anew; of a variation's reference its
    tokens (L, d). `digest` is the hexadecimal SHA-256 of what was encoded. Of moments, latents are
    (sample - `shift`) `scale`, two numbers of the VAE's configuration.
    """

    role: PictureRole
    height: int
    width: int
    values: torch.Tensor
    digest: str
    shift: float = 0.0
    scale: float = 1.0
