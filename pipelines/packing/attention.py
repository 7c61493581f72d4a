"""Attention inside the segments of a packed batch, by name of the back end.

    sdpa      torch's own, one call per run of equal segments        everywhere
    varlen    torch's variable-length attention                      CUDA, float16 and bfloat16
    fa3       FlashAttention 3, by the fa3-fwd package               Hopper, bfloat16
    flash     the flash-attn package                                 CUDA, float16 and bfloat16
    xformers  memory-efficient attention with a block-diagonal mask  CUDA

Shapes:  T tokens of all segments, one after the other      H heads      E head width

Asking for one that cannot run is a ConfigurationError; there is no silent substitute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.errors import ConfigurationError

_HALF = (torch.float16, torch.bfloat16)
_BFLOAT16 = (torch.bfloat16,)


class _Generation(NamedTuple):
    """A kind of GPU: compute capabilities from `first` on, and below `end` if there is one."""

    name: str
    first: tuple[int, int]
    end: tuple[int, int] | None = None

    def __contains__(self, capability: object) -> bool:
        assert isinstance(capability, tuple)
        return self.first <= capability and (self.end is None or capability < self.end)


_AMPERE_OR_NEWER = _Generation("an Ampere GPU (compute capability 8.0) or newer", (8, 0))
_HOPPER = _Generation("a Hopper GPU (compute capability 9.0)", (9, 0), (10, 0))


class AttentionBackend(Protocol):
    """Attention over segments: `prepare` once per layout, call once per block."""

    def prepare(self, lengths: Sequence[int], device: torch.device) -> Any:
        """What the calls need to know of segments of these lengths, on `device`."""
        ...

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        """(T, H, E) three times -> (T, H, E); `plan` is what `prepare` returned."""
        ...


class Run(NamedTuple):
    """`count` neighbouring segments of `length` tokens each."""

    count: int
    length: int


class SegmentSdpa:
    """`torch.nn.functional.scaled_dot_product_attention`, one call per run of equal segments."""

    def prepare(self, lengths: Sequence[int], device: torch.device) -> tuple[Run, ...]:
        return tuple(Run(len(list(run)), length) for length, run in groupby(lengths))

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: tuple[Run, ...]
    ) -> torch.Tensor:
        if len(plan) == 1:
            return self._attend(query, key, value, plan[0])
        sizes = [count * length for count, length in plan]
        parts = zip(query.split(sizes), key.split(sizes), value.split(sizes), plan, strict=True)
        return torch.cat([self._attend(*part) for part in parts])

    @staticmethod
    def _attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, run: Run
    ) -> torch.Tensor:
        # (count * length, H, E) -> (count, H, length, E): segments become the batch axis.
        q, k, v = (x.unflatten(0, run).transpose(1, 2) for x in (query, key, value))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


class Offsets(NamedTuple):
    """Where segments start: `cumulative` (B + 1,) int32 from 0 to T; `longest` in tokens."""

    cumulative: torch.Tensor
    longest: int


VarlenKernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int], torch.Tensor
]
"""(query, key, value, query offsets, key offsets, longest query, longest key) -> output."""


class VarlenAttention:
    """A kernel that takes cumulative lengths, in the argument order that flash-attn began.

    A segment's result must not depend on its neighbours, so the kernel may not split keys by what
    else is in the batch: flash-attn and torch's own do that only when they decode from a paged
    cache, FlashAttention 3 where it is left to choose `num_splits`.
    """

    def __init__(self, kernel: VarlenKernel) -> None:
        self._kernel = kernel

    def prepare(self, lengths: Sequence[int], device: torch.device) -> Offsets:
        cumulative = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
        return Offsets(cumulative, max(lengths))

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Offsets
    ) -> torch.Tensor:
        offsets, longest = plan
        return self._kernel(query, key, value, offsets, offsets, longest, longest)


class XformersAttention:
    """`memory_efficient_attention` of the xformers package under a `BlockDiagonalMask`."""

    def __init__(self, ops: Any, mask: Any) -> None:
        self._ops = ops
        self._mask = mask

    def prepare(self, lengths: Sequence[int], device: torch.device) -> Any:
        return self._mask.from_seqlens(list(lengths), device=device)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        return self._ops.memory_efficient_attention(
            query[None], key[None], value[None], attn_bias=plan
        )[0]


def _sdpa(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    return SegmentSdpa()


def _varlen(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    _check_gpu("varlen", device, dtype, _HALF, _AMPERE_OR_NEWER)
    return VarlenAttention(_import("varlen", "torch.nn.attention.varlen", "torch").varlen_attn)


def _fa3(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    _check_gpu("fa3", device, dtype, _BFLOAT16, _HOPPER)
    kernel = _import("fa3", "fa3_fwd_interface", "'sluice[fa3]'").flash_attn_varlen_func
    return VarlenAttention(partial(kernel, num_splits=1))


def _flash(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    _check_gpu("flash", device, dtype, _HALF, _AMPERE_OR_NEWER)
    # No extra of ours: there is no wheel of it, and building it takes longer than an installation.
    return VarlenAttention(_import("flash", "flash_attn", "flash-attn").flash_attn_varlen_func)


def _xformers(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    _check_cuda("xformers", device)
    return XformersAttention(
        _import("xformers", "xformers.ops", "'sluice[gpu]'"),
        _import("xformers", "xformers.ops.fmha.attn_bias", "'sluice[gpu]'").BlockDiagonalMask,
    )


BACKENDS: dict[str, Callable[[torch.device, torch.dtype], AttentionBackend]] = {
    "sdpa": _sdpa,
    "varlen": _varlen,
    "fa3": _fa3,
    "flash": _flash,
    "xformers": _xformers,
}
"""`DenoiserOptions.attention` lists the same names, where torch must not be imported."""


def backend(name: str, *, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The attention back end called `name`, for tensors of `dtype` on `device`.

    Raises ConfigurationError for an unknown one, and for one that cannot run there.
    """
    if name not in BACKENDS:
        raise ConfigurationError(f"attention: no back end {name!r}; available: {sorted(BACKENDS)}")
    return BACKENDS[name](device, dtype)


def _check_cuda(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise ConfigurationError(
            f"attention: {name!r} runs on CUDA only, and the denoiser is on {device.type!r}; set"
            " attention: sdpa, or give the denoiser a GPU"
        )


def _check_gpu(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    dtypes: Sequence[torch.dtype],
    generation: _Generation,
) -> None:
    _check_cuda(name, device)
    if dtype not in dtypes:
        raise ConfigurationError(
            f"attention: {name!r} takes {' or '.join(_word(each) for each in dtypes)}, not"
            f" {_word(dtype)}; set dtype: bfloat16, or attention: sdpa"
        )
    if (capability := torch.cuda.get_device_capability(device)) not in generation:
        raise ConfigurationError(
            f"attention: {name!r} needs {generation.name}, and this one has"
            f" {capability[0]}.{capability[1]}; set attention: sdpa"
        )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).split(".")[-1]


def _import(name: str, module: str, requirement: str) -> Any:
    """The module, or a ConfigurationError that says how to get it.

    A package built for another torch fails with an ImportError of its own, so that is quoted.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"attention: {name!r} cannot be loaded ({error}); pip install {requirement}, or set"
            " attention: sdpa"
        ) from error
