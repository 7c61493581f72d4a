"""FLUX.1 Redux: a picture as text tokens, for variations.

SigLIP (transformers' `SiglipVisionModel`), then two linear layers, as diffusers'
`FluxPriorReduxPipeline` has them. Its 729 tokens follow those of T5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu


class ReduxEmbedder(nn.Module):
    """The `image_embedder` of a Redux folder, by diffusers' names."""

    def __init__(self, redux_dim: int = 1152, txt_in_features: int = 4096) -> None:
        super().__init__()
        self.redux_up = nn.Linear(redux_dim, 3 * txt_in_features)
        self.redux_down = nn.Linear(3 * txt_in_features, txt_in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.redux_down(silu(self.redux_up(x)))


class FluxRedux:
    """The loaded model: `processor` a `SiglipImageProcessor`, `vision` a `SiglipVisionModel`."""

    def __init__(self, processor: Any, vision: Any, embedder: ReduxEmbedder) -> None:
        self._processor = processor
        self._vision = vision
        self._embedder = embedder

    def tokens(self, pixels: np.ndarray) -> torch.Tensor:
        """Text tokens (729, C) of RGB pixels (height, width, 3), uint8."""
        from PIL import Image

        inputs = self._processor.preprocess(
            images=Image.fromarray(pixels), do_resize=True, return_tensors="pt", do_convert_rgb=True
        )
        weight = self._embedder.redux_up.weight
        values = inputs["pixel_values"].to(weight.device, weight.dtype)
        return self._embedder(self._vision(pixel_values=values).last_hidden_state)[0]
