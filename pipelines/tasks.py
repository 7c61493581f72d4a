"""What an image is drawn from: tasks, and the part that each picture plays in one.

Knows neither torch nor weights: the ingress, routers and the catalogue speak of tasks, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What a denoiser does for a job; each but the last two names its diffusers pipeline.

    A ControlNet is no task of its own: it may stand beside those that start from noise or from an
    image. Outpainting is `INPAINT` or `FILL` of a padded image.
    """

    TEXT_TO_IMAGE = "text-to-image"
    """`FluxPipeline`."""
    IMAGE_TO_IMAGE = "image-to-image"
    """`FluxImg2ImgPipeline`: an image, noised as far as `strength` says."""
    INPAINT = "inpaint"
    """`FluxInpaintPipeline`: as image to image; outside the mask the image's own latents."""
    EDIT = "edit"
    """`FluxKontextPipeline`: references as more tokens; an instruction as the prompt."""
    EDIT_INPAINT = "edit-inpaint"
    """`FluxKontextInpaintPipeline`: an edit inside a mask."""
    FILL = "fill"
    """`FluxFillPipeline`: masked image and mask as more channels."""
    CONTROL = "control"
    """`FluxControlPipeline`: a control map as more channels (the Depth and Canny checkpoints)."""
    VARIATION = "variation"
    """`FluxPriorReduxPipeline`, then `FluxPipeline`: a reference as more text tokens."""


class PictureRole(StrEnum):
    """What a picture is in its task, and so what the image encoder makes of it."""

    IMAGE = "image"
    """The image to start from: moments of the VAE."""
    MASK = "mask"
    """Where to draw anew: 1; elsewhere 0."""
    MASKED_IMAGE = "masked-image"
    """The image with grey (0 of -1..1) where the mask is 1, as Fill takes it: moments."""
    REFERENCE = "reference"
    """What an edit or a variation looks at: moments, or tokens of a variation."""
    CONTROL = "control"
    """A control map: moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureUse:
    """One picture of a job, for the denoiser: its role and how strongly it counts.

    `height` and `width` are pixels as it is encoded; a variation's reference is, whatever they say,
    seen as a whole. The others are a control map's alone: `kind`,
    such as "canny" or "depth" (the mode of a union ControlNet), `scale`, and from which share of
    the steps to which it acts, `start` and `end` in 0..1.
    """

    role: PictureRole
    height: int
    width: int
    kind: str = ""
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
