"""Devices and dtypes by the names that settings have for them."""

from __future__ import annotations

import os
from pathlib import Path

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


_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def total_memory(device: torch.device) -> int:
    """Bytes that a device has in all, whoever uses them; of a CPU the machine's, or the container's
    where that has a bound."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:  # another version of control groups, or none
        return machine
    return min(machine, int(limit)) if limit.isdecimal() else machine
