"""LatentRgb: colours straight from latents, by a linear map that is fitted to the model's decoder.

Each latent pixel becomes one pixel: the mean colour of what the decoder makes of it, as far as a
linear map can say. A hundred thousand of them take a millisecond or two, and no decoder is kept.

It is fitted to two kinds of latents: small images that the model itself draws of texts that mean
nothing, which have the values that its latents have, and smooth noise, which has all others.

Shapes:  S image tokens    D channels of one    C latent channels    h, w latent pixels
"""

from __future__ import annotations

import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from pipelines.contracts import LatentJob, SamplingParams
from pipelines.families import Family, LatentDecoder
from pipelines.stages.denoiser import DenoiserStage

_DRAWN, _SMOOTH = 12, 8
"""Latents of each kind: more of them take longer at each start, and tell little more."""
_CHUNK = 16
_SIDE_TOKENS = 4
_STEPS = 4
_TEXT_TOKENS = 16
_RIDGE = 1e-4
"""Of the mean square of a channel, about one: keeps channels apart that are alike here."""


class LatentRgb:
    """Maps latents to colours by `weights` (C + 1, 3), the last row of which is the offset."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights

    @property
    def latent_channels(self) -> int:
        return len(self._weights) - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(3, h, w) around -1..1 of latents (C, h, w), float32 on their device."""
        weights = self._weights.to(latents.device)
        flat = latents.to(torch.float32).flatten(1)
        colours = weights[:-1].T @ flat + weights[-1][:, None]
        return colours.unflatten(1, latents.shape[1:])


@torch.inference_mode()
def fit_latent_rgb(
    stage: DenoiserStage, decoder: LatentDecoder, family: Family, *, guidance_scale: float
) -> LatentRgb | None:
    """The map for a model, the same at each start; None if its values are not finite.

    It draws with `stage`, which must not be used meanwhile.
    """
    side = _SIDE_TOKENS * family.size_multiple
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = _drawn(stage, family, side, guidance_scale)
        packed = [*drawn, *_smooth(stage, drawn[0], side)]
    values, colours = [], []
    for start in range(0, len(packed), _CHUNK):
        chunk = packed[start : start + _CHUNK]
        latents = torch.stack([stage.unpacked(each, side, side) for each in chunk]).cpu().float()
        pixels = decoder.decode(chunk, side, side).clamp(-1, 1).cpu().float()
        values.append(_rows(latents))
        height, width = latents.shape[-2:]
        colours.append(_rows(adaptive_avg_pool2d(pixels, (height, width))))
    return _fitted(torch.cat(values), torch.cat(colours))


def _fitted(values: torch.Tensor, colours: torch.Tensor) -> LatentRgb | None:
    """By least squares, from values (n, C) to colours (n, 3)."""
    finite = values.isfinite().all(dim=1) & colours.isfinite().all(dim=1)
    ones = torch.ones(len(values), 1)
    known = torch.cat([values, ones], dim=1)[finite].double()
    if len(known) <= known.shape[1]:
        return None
    ridge = _RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(known.T @ known + ridge, known.T @ colours[finite].double())
    return LatentRgb(weights.float())


def _drawn(
    stage: DenoiserStage, family: Family, side: int, guidance_scale: float
) -> list[torch.Tensor]:
    """Latents (S, D) of images that the model draws of texts that mean nothing."""
    trajectories = []
    for index in range(_DRAWN):
        sampling, pictures = stage.needed(
            SamplingParams(
                height=side,
                width=side,
                num_inference_steps=_STEPS,
                guidance_scale=guidance_scale,
                seed=index,
                family=family.name,
            )
        )
        job = LatentJob(work_id=f"preview-{index}", group="preview", sampling=sampling)
        text = stage.random_conditioning(_TEXT_TOKENS)
        trajectories.append(stage.admit(job, text, None, None, pictures))
    for _ in range(_STEPS):
        stage.tick(trajectories)
    return [each.latents for each in trajectories]


def _smooth(stage: DenoiserStage, like: torch.Tensor, side: int) -> list[torch.Tensor]:
    """Latents (S, D) of noise without detail: the decoder sees little but the channels' values."""
    # How tokens are laid out, the family knows; where each of their values goes is all there is.
    places = stage.unpacked(torch.arange(like.numel()).view(like.shape), side, side)
    channels, height, width = places.shape
    coarse = torch.randn(_SMOOTH, channels, 2, 2)
    found: list[torch.Tensor] = []
    for noise in interpolate(coarse, size=(height, width), mode="bicubic"):
        flat = torch.empty(like.numel())
        flat[places.flatten()] = noise.flatten()
        found.append(flat.view(like.shape).to(like.device, like.dtype))
    return found


def _rows(images: torch.Tensor) -> torch.Tensor:
    """(B * h * w, C) of (B, C, h, w)."""
    return images.movedim(1, -1).flatten(0, -2)
