"""Devices and dtypes by the names that settings have for them."""

from __future__ import annotations

import torch

from pipelines.errors import ConfigurationError

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype called `name`. Raises ConfigurationError."""
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype: {name!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def resolve_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:i`; raises ConfigurationError where CUDA is asked for but missing."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device: {name!r} needs a CUDA device, and none is visible here")
    return device
