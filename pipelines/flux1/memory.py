"""Device memory that the stages take, worked out from a model's configuration beforehand.

Symbols:  d transformer width   D latent channels   P pooled text width   E head width   e bytes of
a value   L, S text and image tokens   N forwards   M modulation values of one forward
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.contracts import SamplingParams
from pipelines.tasks import Task
from pipelines.tiling import Tiling

_FLOAT32 = 4
_WIDTHS_PER_TOKEN = 26
_WIDTHS_PER_STREAM = 8
_WIDTHS_EXCHANGED = 7
_FLOAT32_WIDTHS_PER_TOKEN = 6
_PICTURES_JOINED = 3
_MIN_SEGMENT = 32
"""Tokens of the smallest segment that `tick_bytes` counts on: a picture of 64x64 has 16 of its own,
and text comes with it."""


def modulation_width(config: Any) -> int:
    """M: 12 vectors of d values for a double block, 3 for a single one, 2 at the end."""
    return _width(config) * (12 * config.num_layers + 3 * config.num_single_layers + 2)


def trajectory_bytes(
    config: Any,
    *,
    text: int,
    image: int,
    segments: int,
    num_steps: int,
    itemsize: int,
    skips_steps: bool,
) -> int:
    """What an admitted trajectory holds.

    S D e of latents and, where steps are skipped, of velocity; L d e of embedded text, P e of
    pooled text and N M e of modulation for each segment; 2 (L + S) E 4 of rotary factors. The
    schedule is not counted: a few numbers.
    """
    latents = image * config.in_channels * (2 if skips_steps else 1)
    segment = text * _width(config) + config.pooled_projection_dim
    segment += num_steps * modulation_width(config)
    rotary = 2 * (text + image) * config.attention_head_dim
    return itemsize * (latents + segments * segment) + _FLOAT32 * rotary


def blend_bytes(sampling: SamplingParams, width: int, image: int, itemsize: int) -> int:
    """What a job with a mask keeps to blend with: the image's latents, noise and mask, 3 S D e.

    References and more channels are counted with the image's own tokens.
    """
    blends = sampling.task in (Task.INPAINT, Task.EDIT_INPAINT)
    return 3 * image * width * itemsize if blends else 0


def encode_image_bytes(
    *, channels: int, pixels: int, itemsize: int, tiling: Tiling | None = None
) -> int:
    """What the VAE's encoder takes at its peak, beyond its weights: an estimate.

    Four times `channels` values for each pixel, where its first blocks have all of them, or all of
    a tile's; then the picture itself and what is made of it, as large as one at most.
    """
    at_once = pixels if tiling is None else tiling.pixels_at_once(pixels)
    beside = 0 if at_once == pixels else 2 * 3 * pixels
    return (4 * channels * at_once + beside) * itemsize


def tick_bytes(
    config: Any, *, tokens: int, itemsize: int, tensor: int = 1, ulysses: int = 1
) -> int:
    """What a packed forward takes at its peak, beyond weights and trajectories: an upper estimate.

    For each token 26 d e: the stream and its normalised copy (2), the modulation spread over it
    (6), query, key and value and what attention makes of them (7), the MLP's hidden values before
    and after its activation (8), joined with attention (3). Rotating query and key in float32 takes
    6 d 4 more. Then the inputs, (D + d) e and 4 E 4 for the rotary factors, and one row of
    modulation for every 32 tokens, M e.

    A rank of several (`pipelines.parallel`) has a `ulysses`-th of the tokens, and of those a
    `tensor`-th of all but the first 8; exchanging tokens for heads takes 7 more of that.
    """
    width = _width(config)
    whole = _WIDTHS_PER_STREAM * width * itemsize
    parts = _WIDTHS_PER_TOKEN - _WIDTHS_PER_STREAM + (_WIDTHS_EXCHANGED if ulysses > 1 else 0)
    shared = parts * width * itemsize + _FLOAT32_WIDTHS_PER_TOKEN * width * _FLOAT32
    inner = -(-tokens // ulysses) * (whole + -(-shared // tensor))
    inputs = (config.in_channels + width) * itemsize + 4 * config.attention_head_dim * _FLOAT32
    modulation = -(-tokens // _MIN_SEGMENT) * modulation_width(config) * itemsize
    return inner + tokens * inputs + modulation


def encode_bytes(*, width: int, heads: int, batch: int, tokens: int) -> int:
    """What T5 takes for a batch of padded prompts at its peak, beyond its weights: an estimate.

    For each pair of tokens and each head the scores and their softmax, in float32 whatever the
    weights are in, and once for all prompts the positions' share of them; for each token the MLP's
    gate and hidden values.
    """
    pairs = heads * tokens**2
    return batch * (9 * pairs + 30 * width * tokens) + 8 * pairs


def tile_size(sample_size: int | Sequence[int], *, levels: int) -> int:
    """Side in pixels of the tiles of a VAE that shrinks a side `levels` - 1 times by two.

    0 where a quarter of one is no whole number of latents: diffusers' tiles do not meet then.
    """
    size = sample_size if isinstance(sample_size, int) else sample_size[0]
    return size if size > 0 and size % (4 * 2 ** (levels - 1)) == 0 else 0


def decode_bytes(
    *, channels: int, batch: int, pixels: int, itemsize: int, tiling: Tiling | None = None
) -> int:
    """What the VAE's decoder takes at its peak, beyond its weights: an estimate.

    Three times `channels` values for each pixel, where the last upsampling meets its convolution
    and the normalisation after it; of a tile where there are some. Joining those takes three times
    the images: the rows, all of them together, and two rows of tiles, which overlap.
    """
    at_once = pixels if tiling is None else tiling.pixels_at_once(pixels)
    beside = 0 if at_once == pixels else _PICTURES_JOINED * 3 * pixels
    return batch * (3 * channels * at_once + beside) * itemsize


def _width(config: Any) -> int:
    return config.num_attention_heads * config.attention_head_dim
