"""Gives whatever is in a batch the bits that it has alone, on a CPU, for any number of threads.

Whether an operation does so by itself depends on how its kernel is chosen and shared out:

- a convolution's kernel is chosen by oneDNN by the shape of the whole batch, and two kernels round
  differently: that is tried out, once for each shape, on random numbers;
- a group norm of channels that lie innermost is summed up in as many parts as there are threads,
  which end anywhere in the batch: by one thread alone it is the same;
- an activation's last few numbers of each thread are not computed in vectors, and round
  differently: by up to two threads there are none;
- a matrix product's kernel is chosen by MKL by the number of rows, and on some CPUs two kernels add
  up in different orders: that is tried out, once for each shape;
- attention is large enough for an image to keep all threads busy.

What differs is run image by image, and only that. Nothing is known here of what calls whom: the
modules are replaced where they are. On other devices than CPUs nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

_SHAPES_KEPT = 256
_PRODUCTS_KEPT = 8192

_TRIED_POSITIONS = 64 * 64
"""Of an image's height x width, up to which a batch of convolutions is faster than one by one."""

_VECTORS = 128
"""Numbers that two threads share in whole vectors, of any instruction set, unrolled."""


def rounds_by_position(device: torch.device) -> bool:
    """Whether an activation, or a product of complex numbers, depends there on where in a larger
    tensor a number stands, even where all sizes are multiples of `_VECTORS`: then each part is to
    be computed by itself."""
    return device.type == "cpu" and torch.get_num_threads() > 2


def products_are_invariant(
    counts: tuple[int, ...], *, out: int, into: int, has_bias: bool, dtype: torch.dtype
) -> bool:
    """Whether on this CPU a product with weights (out, into) of rows that belong together by
    `counts` has in all of them the bits of the rows of each count alone."""
    return _products_are_invariant(
        counts, _ProductKind(out, into, has_bias, dtype, torch.get_num_threads())
    )


def linears_are_invariant(model: nn.Module, counts: tuple[int, ...]) -> bool:
    """The same of all linear layers of `model`, which see so many rows that belong together."""
    return all(
        products_are_invariant(
            counts,
            out=each.out_features,
            into=each.in_features,
            has_bias=each.bias is not None,
            dtype=each.weight.dtype,
        )
        for each in model.modules()
        if isinstance(each, nn.Linear)
    )


class _ProductKind(NamedTuple):
    out: int
    into: int
    has_bias: bool
    dtype: torch.dtype
    threads: int


@lru_cache(_PRODUCTS_KEPT)
def _products_are_invariant(counts: tuple[int, ...], kind: _ProductKind) -> bool:
    together = _row_bits(sum(counts), kind)
    return together is not None and all(_row_bits(n, kind) == together for n in set(counts))


@lru_cache(_PRODUCTS_KEPT)
def _row_bits(rows: int, kind: _ProductKind) -> bytes | None:
    """The bits of each row of a product whose `rows` are all alike; None if those differ."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(kind.dtype)

    weight, row = random(kind.out, kind.into), random(kind.into)
    bias = random(kind.out) if kind.has_bias else None
    made = functional.linear(row.expand(rows, -1).contiguous(), weight, bias)
    if not bool((made == made[:1]).all()):
        return None
    return made[0].view(torch.uint8).numpy().tobytes()


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
