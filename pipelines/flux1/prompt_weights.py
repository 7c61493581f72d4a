"""What weights of words do to a prompt's embeddings.

A1111's rule (`EmphasisOriginal` in its `modules/sd_emphasis.py`): each token's embedding times the
token's weight, then all of them times old mean / new mean, so that the prompt as a whole is as loud
as before. One thing is another here: the means are of magnitudes. A plain mean is of values of both
signs, which cancel each other out, and dividing by what is left of T5's could turn a small weight
into a large factor, or a negative one.

    z' = z * w * mean |z| / mean |z * w|        over all L tokens of one prompt, padding included

The pooled CLIP vector is left as it is.

L  text tokens      C  text width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.prompts.weighting import WeightedText


def weigh(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Embeddings (L, C) by the weights (L,) of their tokens, float32; the same tensor where all are
    1. Computed in float32."""
    if bool((weights == 1.0).all()):
        return embeds
    values = embeds.float()
    scaled = values * weights.to(values.device)[:, None]
    # Where all weights are 0, so is all that is multiplied; asking would wait for the device.
    loudness = scaled.abs().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return (scaled * (values.abs().mean() / loudness)).to(embeds.dtype)


def token_weights(text: WeightedText, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(L,), float32: of tokens at these places of the text, from one character up to another.

    A token has the weight of its first character that is no space. One without characters, such as
    padding, has 1.
    """
    return torch.tensor([_weight(text, *place) for place in places], dtype=torch.float32)


def _weight(text: WeightedText, start: int, end: int) -> float:
    spaces = len(text.text[start:end]) - len(text.text[start:end].lstrip())
    first = start + spaces
    return text.weight_at(first) if first < end else 1.0
