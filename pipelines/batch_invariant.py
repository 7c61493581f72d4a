"""Gives whatever is in a batch the bits that it has alone, on a CPU, for any number of threads.

Whether an operation does so by itself depends on how its kernel is chosen and shared out:

- a convolution's kernel is chosen by oneDNN by the shape of the whole batch, and two kernels round
  differently: that is tried out, once for each shape, on random numbers;
- a group norm of channels that lie innermost is summed up in as many parts as there are threads,
  which end anywhere in the batch: by one thread alone it is the same;
- an activation's last few numbers of each thread are not computed in vectors, and round
  differently: by up to two threads there are none;
- attention is large enough for an image to keep all threads busy.

What differs is run image by image, and only that. Nothing is known here of what calls whom: the
modules are replaced where they are. On other devices than CPUs nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

_SHAPES_KEPT = 256

_TRIED_POSITIONS = 64 * 64
"""Of an image's height x width, up to which a batch of convolutions is faster than one by one."""

_VECTORS = 128
"""Numbers that two threads share in whole vectors, of any instruction set, unrolled."""


def rounds_by_position(device: torch.device) -> bool:
    """Whether an activation, or a product of complex numbers, depends there on where in a larger
    tensor a number stands, even where all sizes are multiples of `_VECTORS`: then each part is to
    be computed by itself."""
    return device.type == "cpu" and torch.get_num_threads() > 2


def make_batch_invariant(
    model: nn.Module, *, by_image: type[nn.Module] | tuple[type[nn.Module], ...] = ()
) -> None:
    """Replace the operations of `model`, in place, whose results depend on the rest of the batch.

    Modules of a class in `by_image`, such as attention, are run on each image. Dimension 0 of every
    tensor must be the batch. Must be called once.
    """
    for name, module in list(model.named_children()):
        rule = (lambda _: False) if isinstance(module, by_image) else _rule_for(module)
        if rule is None:
            make_batch_invariant(module, by_image=by_image)
        else:
            setattr(model, name, _ByImage(module, rule))


class _ByImage(nn.Module):
    """Runs `inner` on the batch where `is_invariant` says so of it, else on each image."""

    def __init__(self, inner: nn.Module, is_invariant: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self.inner = inner
        self._is_invariant = is_invariant

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The result of the module within, on the batch or on each image."""
        if len(batch) == 1 or batch.device.type != "cpu" or self._is_invariant(batch):
            return self.inner(batch, *args, **kwargs)
        return torch.cat([self.inner(image, *args, **kwargs) for image in batch.split(1)])


def _rule_for(module: nn.Module) -> Callable[[torch.Tensor], bool] | None:
    """Whether a batch of a module like this has the bits of its images; None: look inside."""
    match module:
        case nn.Conv2d():
            return _tried_out(module)
        case nn.GroupNorm():
            return lambda _: torch.get_num_threads() == 1
        case nn.SiLU():
            return _is_in_whole_vectors
        case _:
            return None


def _is_in_whole_vectors(batch: torch.Tensor) -> bool:
    return not rounds_by_position(batch.device) and batch[0].numel() % _VECTORS == 0


def _tried_out(conv: nn.Conv2d) -> Callable[[torch.Tensor], bool]:
    @lru_cache(_SHAPES_KEPT)
    def is_invariant(shape: torch.Size, stride: tuple[int, ...], threads: int) -> bool:
        generator = torch.Generator().manual_seed(0)
        batch = torch.empty_strided(shape, stride, dtype=conv.weight.dtype)
        batch.normal_(generator=generator)
        alone = torch.cat([conv(image) for image in batch.split(1)])
        return torch.equal(conv(batch), alone)

    def rule(batch: torch.Tensor) -> bool:
        if batch[0, 0].numel() > _TRIED_POSITIONS:
            return False
        return is_invariant(batch.shape, batch.stride(), torch.get_num_threads())

    return rule
