"""What FLUX.1 makes of a job's pictures: latents to start from, and what stands beside them.

Draws and casts are those of diffusers' pipelines, in their order, from one generator with the job's
seed; `pipelines.tasks` names the pipeline of each task. Control maps come first in all of them,
then the image, the noise, and for Fill the masked image.

Shapes:  C latent channels (16 for FLUX.1)      D packed channels, 4 C      h, w of latents
         S, R image tokens of the job's own and of references
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from pipelines.begin import Blend, PictureInputs, noised
from pipelines.contracts import Conditioning, EncodedPicture, SamplingParams
from pipelines.errors import InvalidRequest
from pipelines.flux1.latents import latent_size, pack
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.sampling import Schedule
from pipelines.task_rules import FIELDS
from pipelines.tasks import PictureRole, PictureUse, Task

_PIXELS = 8
"""Of a latent's side."""
MASK_CHANNELS = 4 * _PIXELS**2
"""Of Fill's mask: every pixel of a token is one."""
_LOGVAR_RANGE = (-30.0, 20.0)

_MODES = (Task.EDIT, Task.EDIT_INPAINT)
"""Kontext takes its images from the means of their moments: nothing is drawn for them."""


class DrawnLatents(NamedTuple):
    """`latents` (S, D) to start from, what the pictures add to each step, and the latents (S, D) of
    each control map."""

    latents: torch.Tensor
    inputs: PictureInputs
    maps: tuple[torch.Tensor, ...]


class _Draws:
    """Latents of one job, packed, on the model's device, of its dtype."""

    def __init__(self, seed: int, channels: int, device: torch.device, dtype: torch.dtype) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._channels = channels
        self._device = device
        self._dtype = dtype

    def noise(self, height: int, width: int) -> torch.Tensor:
        """(S, D), as `pipelines.flux1.latents.draw_noise`."""
        shape = (1, self._channels, *latent_size(height, width))
        return pack(self._normal(shape, self._dtype))[0]

    def sample(self, picture: EncodedPicture) -> torch.Tensor:
        """(S, D) of a picture, drawn from its moments."""
        mean, logvar = self._moments(picture)
        std = torch.exp(0.5 * logvar.clamp(*_LOGVAR_RANGE))
        return self._scaled(mean + std * self._normal(tuple(mean.shape), mean.dtype), picture)

    def mode(self, picture: EncodedPicture) -> torch.Tensor:
        """(S, D) of a picture, the means of its moments."""
        return self._scaled(self._moments(picture)[0], picture)

    def _moments(self, picture: EncodedPicture) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = latent_size(picture.height, picture.width)
        expected = (2 * self._channels, rows, columns)
        if tuple(picture.values.shape) != expected:
            raise InvalidRequest(
                f"{FIELDS[picture.role]}: its moments are {tuple(picture.values.shape)}, but the"
                f" denoiser takes {expected}: both stages must load the same model",
                param=FIELDS[picture.role],
            )
        mean, logvar = picture.values.to(self._device)[None].chunk(2, dim=1)
        return mean, logvar

    def _scaled(self, sample: torch.Tensor, picture: EncodedPicture) -> torch.Tensor:
        return pack(((sample - picture.shift) * picture.scale).to(self._dtype))[0]

    def _normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """On the CPU whatever the device, so that a seed means the same image everywhere."""
        return torch.randn(shape, generator=self._generator, dtype=dtype).to(self._device)


def draw(
    sampling: SamplingParams,
    schedule: Schedule,
    pictures: Sequence[EncodedPicture],
    *,
    latent_channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> DrawnLatents:
    """All that a job draws. Raises InvalidRequest for moments of another size or model."""
    task = sampling.task
    draws = _Draws(sampling.seed, latent_channels, device, dtype)
    by_role = {picture.role: picture for picture in pictures}
    maps = tuple(draws.sample(each) for each in pictures if each.role is PictureRole.CONTROL)
    clean = None
    if (image := by_role.get(PictureRole.IMAGE)) is not None:
        clean = draws.mode(image) if task in _MODES else draws.sample(image)
    noise = draws.noise(sampling.height, sampling.width)
    latents = noise if clean is None else noised(clean, noise, schedule.sigmas[:1])
    inputs = PictureInputs()
    if task is Task.FILL:
        masked = draws.sample(by_role[PictureRole.MASKED_IMAGE])
        mask = _pixels_of(by_role[PictureRole.MASK].values).to(device, dtype)
        inputs = PictureInputs(channels=torch.cat([masked, mask], dim=1))
    elif task is Task.CONTROL:
        inputs, maps = PictureInputs(channels=maps[0]), ()
    elif clean is not None and (mask := by_role.get(PictureRole.MASK)) is not None:
        nearest = _nearest(mask, latent_channels).to(device, dtype)
        inputs = PictureInputs(blend=Blend(clean, noise, nearest))
    if task in _MODES:
        references = [draws.mode(each) for each in pictures if each.role is PictureRole.REFERENCE]
        if not references and clean is not None:
            references = [clean]
        inputs = inputs._replace(context=torch.cat(references))
    return DrawnLatents(latents, inputs, maps)


def with_picture_tokens(
    conditioning: Conditioning, tokens: torch.Tensor, expected: int
) -> Conditioning:
    """`conditioning` with a variation's tokens (L, C) after its own, as `FluxPriorReduxPipeline`
    has them. Raises InvalidRequest unless there are `expected` of them, as wide as text."""
    embeds, pooled = PromptTensors.of(conditioning)
    if tuple(tokens.shape) != (expected, embeds.shape[1]):
        raise InvalidRequest(
            f"reference: became {tuple(tokens.shape)} tokens, but the denoiser takes"
            f" {(expected, embeds.shape[1])}: both stages must be of one model",
            param="reference",
        )
    joined = torch.cat([embeds, tokens.to(embeds.device, embeds.dtype)])
    return PromptTensors(joined, pooled).conditioning(
        num_tokens=conditioning.num_tokens, unread=conditioning.unread
    )


def random_pictures(
    sampling: SamplingParams, roles: Sequence[PictureRole], latent_channels: int
) -> list[EncodedPicture]:
    """Pictures of these roles that mean nothing, of the size of `sampling`."""
    height, width = sampling.height, sampling.width
    moments = torch.randn(2 * latent_channels, *latent_size(height, width))
    return [
        EncodedPicture(
            role=role,
            height=height,
            width=width,
            values=torch.ones(1, height, width) if role is PictureRole.MASK else moments,
            digest="",
        )
        for role in roles
    ]


def uses_of(pictures: Sequence[EncodedPicture]) -> tuple[PictureUse, ...]:
    """What a job says of these pictures."""
    return tuple(
        PictureUse(role=each.role, height=each.height, width=each.width) for each in pictures
    )


def _nearest(mask: EncodedPicture, channels: int) -> torch.Tensor:
    """(S, D) of a mask (1, height, width): for each latent its first pixel, in all channels."""
    rows, columns = latent_size(mask.height, mask.width)
    latents = interpolate(mask.values[None], size=(rows, columns))
    return pack(latents.repeat(1, channels, 1, 1))[0]


def _pixels_of(mask: torch.Tensor) -> torch.Tensor:
    """(S, 256) of a mask (1, height, width): all pixels of a token, as `FluxFillPipeline` has
    them."""
    _, height, width = mask.shape
    rows, columns = height // _PIXELS, width // _PIXELS
    pixels = mask.view(1, rows, _PIXELS, columns, _PIXELS).permute(0, 2, 4, 1, 3)
    return pack(pixels.reshape(1, _PIXELS**2, rows, columns))[0]
