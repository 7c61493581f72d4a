"""Which noise becomes which picture: the noise that training pairs with a scene.

A sentence leaves open only where in its slot an object is and how large. With noise that is
independent of that, the best velocity at a high time is a mean over all of it, and what is decided
late and little by little wobbles. Flow matching allows any coupling of noise and data that keeps
both distributions; here the jitter of the scene is a function of the noise, so that the velocity
has one answer from the first step on. The jitter is uniform; its normal quantiles are the means,
times the square root of their count, of the noise's first packed channels. Given that, noise is
still standard normal over all scenes, and serving draws it as ever: the seed decides the jitter.

Jitter is (n, 2, 3) in [0, 1), noise (n, tokens, 64).
"""

import torch
from torch import Tensor

VALUES = 6
"""How many channels speak: x, y and radius of two objects."""


def coupled_noise(jitter: Tensor, coupled: Tensor, noise: Tensor) -> Tensor:
    """Noise that says the jitter of the objects that are ``coupled`` (n, 2) bool.

    Without any it is returned as it is.
    """
    said = torch.special.ndtri(jitter.flatten(1).clamp(1e-4, 1 - 1e-4))
    root = noise.shape[1] ** 0.5
    missing = said / root - noise[:, :, :VALUES].mean(1)
    missing = torch.where(coupled.repeat_interleave(3, 1), missing, 0.0)
    return torch.cat([noise[:, :, :VALUES] + missing[:, None], noise[:, :, VALUES:]], 2)


def said_jitter(noise: Tensor) -> Tensor:
    """The jitter (n, 2, 3) that noise says."""
    means = noise[:, :, :VALUES].mean(1) * noise.shape[1] ** 0.5
    return torch.special.ndtr(means).view(-1, 2, 3)
