"""Tensors on the pretended device, and the mode in which torch takes them.

Each wraps a CPU tensor, its *inner* one. Every call of torch that meets one (functions, methods,
properties) goes through `PretendMode`, which hands the inner tensors on and wraps what comes back;
so a view shares memory with what it is a view of, and the arithmetic is that of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretend_cuda.waits import HostWaits

DEVICE = torch.device("cuda:0")
T: Any = torch.Tensor
_C: Any = torch._C

_TAKES_A_VALUE = {
    *(T.item, T.__bool__, T.__int__, T.__float__, T.__complex__, T.__index__, T.__contains__),
    *(T.__format__, T.__repr__, T.equal, T.allclose, T.is_nonzero, T.nonzero, T.argwhere),
    *(T.unique, T.masked_select, T.bincount),
    *(torch.equal, torch.allclose, torch.is_nonzero, torch.nonzero, torch.argwhere, torch.unique),
    *(torch.masked_select, torch.bincount),
}
"""What needs a value of the tensor on the host, be it for the size of the result."""

_TAKES_DATA = {torch.tensor, torch.as_tensor, torch.asarray}
"""What makes a tensor of data that the host has."""


class PretendCuda(torch.Tensor):
    """Says that it is on `cuda:0`; `inner` has the values."""

    __torch_function__: Any = _C._disabled_torch_function_impl
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendCuda:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{function}: a pretended tensor is used outside of `pretend_cuda()`")


class Pinned:
    """Which tensors lie in memory that is said to be pinned. They are kept to the end."""

    def __init__(self) -> None:
        self._kept: dict[int, torch.Tensor] = {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        self._kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def has(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._kept


class Arrival:
    """Values on their way into memory of the host. They come once, whoever waits first."""

    def __init__(self, target: torch.Tensor, values: torch.Tensor) -> None:
        self._target = target
        self._values: torch.Tensor | None = values

    def bring(self) -> None:
        if self._values is not None:
            self._target.copy_(self._values)
        self._values = None


Later = Callable[[Arrival], None]
"""Puts an arrival at the end of the current stream."""


class PretendMode(TorchFunctionMode):
    """Computes on inner tensors. For one thread: each enters one of its own."""

    def __init__(self, waits: HostWaits, pinned: Pinned, later: Later) -> None:
        super().__init__()
        self._waits, self._pinned, self._later = waits, pinned, later
        self._special: dict[Any, Callable[..., Any]] = {
            T.to: self._to,
            T.cuda: lambda me, device=DEVICE, **kwargs: self._to(me, device, **kwargs),
            T.cpu: lambda me, **kwargs: self._to(me, "cpu", **kwargs),
            T.copy_: self._copy,
            T.pin_memory: self._pin,
            T.is_pinned: lambda me, *_: not _is_ours(me) and self._pinned.has(me),
            T.__getitem__: self._get,
            T.__setitem__: self._set,
            T.__iter__: self._iterate,
            T.tolist: self._tolist,
            T.numpy: self._numpy,
            T.__array__: self._numpy,
            T.data.__set__: self._set_data,
            T.device.__get__: lambda me: DEVICE,
            T.is_cuda.__get__: lambda me: True,
            T.is_cpu.__get__: lambda me: False,
            T.get_device: lambda me: 0,
            T.record_stream: lambda me, stream: None,
            # So that `Module.to` makes new parameters instead of changing what a tensor is.
            torch._has_compatible_shallow_copy_type: lambda me, other: (
                _is_ours(me) and _is_ours(other)
            ),
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        ours = [x for x in leaves if isinstance(x, PretendCuda)]
        asks = _is_cuda(kwargs.get("device"))
        pins = bool(kwargs.pop("pin_memory", False))
        moves = function in (T.to, T.cuda, T.pin_memory, T.is_pinned)
        if not (ours or asks or moves):
            made = function(*args, **kwargs)
            return self._pinned.add(made) if pins else made
        if function in self._special:
            return self._special[function](*args, **kwargs)
        if any(_is_host_data(x) for x in leaves) and ours:
            _refuse(function, leaves)
        return self._compute(function, args, kwargs, ours, asks=asks)

    def _compute(
        self, function: Any, args: Any, kwargs: Any, ours: Sequence[PretendCuda], *, asks: bool
    ) -> Any:
        if function in _TAKES_A_VALUE or _has_unknown_size(function, args, kwargs):
            self._waits.note("scalar")
        if asks and function in _TAKES_DATA and not ours:
            self._waits.note("upload")
        on_cpu = kwargs.get("device") is not None and not asks
        if asks:
            kwargs["device"] = "cpu"
        out = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if on_cpu:
            return out
        # What an operation returns of what it was given is the very same tensor.
        known = {id(x.inner): x for x in ours}

        def back(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else _wrap(x)

        return tree_map(back, out)

    def _to(self, me: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copy = kwargs.pop("copy", False)
        other = kwargs.pop("other", args[0] if args else None)
        if isinstance(other, torch.Tensor):
            device = DEVICE if _is_ours(other) else torch.device("cpu")
            args, kwargs = (device, other.dtype, *args[1:]), kwargs
        device, dtype, non_blocking, layout = _C._nn._parse_to(*args, **kwargs)
        here = _is_ours(me)
        there = here if device is None else _is_cuda(device)
        options: dict[str, Any] = {"dtype": dtype or me.dtype, "copy": copy or here != there}
        if layout is not None:
            options["memory_format"] = layout
        if not here and not there:
            return me.to(*(() if device is None else (device,)), **options)
        if here and there:
            out = _inner(me).to(**options)
            return me if out is _inner(me) else _wrap(out)
        if there:
            if not (non_blocking and self._pinned.has(me)):
                self._waits.note("upload")
            return _wrap(me.detach().to(**options))
        out = _inner(me).detach().to(**options)
        return self._arrives_later(out, out.clone()) if non_blocking else self._has_come(out)

    def _copy(self, me: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> Any:
        if not _is_ours(me):
            if non_blocking and self._pinned.has(me):
                return self._arrives_later(me, _inner(source).clone())
            return self._has_come(me.copy_(_inner(source)))
        if not _is_ours(source) and not (non_blocking and self._pinned.has(source)):
            self._waits.note("upload")
        _inner(me).copy_(_inner(source))
        return me

    def _has_come(self, tensor: torch.Tensor) -> torch.Tensor:
        self._waits.note("download")
        return tensor

    def _arrives_later(self, target: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Pinned, with rubbish in it until the stream is waited for."""
        self._later(Arrival(target, values))
        rubbish = math.nan if target.is_floating_point() else False
        return self._pinned.add(target.fill_(rubbish))

    def _pin(self, me: torch.Tensor, *_: Any) -> torch.Tensor:
        if _is_ours(me):
            raise RuntimeError("cannot pin 'torch.cuda' memory; only CPU memory can be pinned")
        return self._pinned.add(me.clone())

    def _get(self, me: torch.Tensor, index: Any) -> Any:
        return _wrap(_inner(me)[self._index(me, index)])

    def _set(self, me: torch.Tensor, index: Any, value: Any) -> None:
        if _is_host_data(value):
            self._waits.note("upload")
        _inner(me)[self._index(me, index)] = _inner(value)

    def _index(self, me: torch.Tensor, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not _is_ours(me) or any(_is_host_data(part) for part in parts):
            # A GPU would take some of these, and upload the index each time.
            _refuse(T.__getitem__, [me, *parts])
        for part in parts:
            if isinstance(part, list):
                self._waits.note("list index")
            elif isinstance(part, PretendCuda) and part.dtype == torch.bool:
                self._waits.note("scalar")
        plain = tuple(_inner(part) for part in parts)
        return plain if isinstance(index, tuple) else plain[0]

    def _iterate(self, me: PretendCuda) -> Iterator[torch.Tensor]:
        return iter([_wrap(part) for part in me.inner.unbind(0)])

    def _tolist(self, me: PretendCuda) -> Any:
        self._waits.note("download")
        return me.inner.tolist()

    def _numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def _set_data(self, me: PretendCuda, value: torch.Tensor) -> None:
        if not isinstance(value, PretendCuda):
            _refuse(T.data.__set__, [me, value])
        assert (me.shape, me.dtype) == (value.shape, value.dtype)
        me.inner = _inner(value)


def _is_ours(x: Any) -> bool:
    return isinstance(x, PretendCuda)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_host_data(x: Any) -> bool:
    """A tensor on the CPU that no operation on cuda takes: only single numbers pass."""
    return isinstance(x, torch.Tensor) and not isinstance(x, PretendCuda) and x.dim() > 0


def _has_unknown_size(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the size of the result is known only from values on the device."""
    if function in (torch.repeat_interleave, T.repeat_interleave):
        counts = [*args, *kwargs.values()][-1 if len(args) == 1 else 1]
        return _is_ours(counts) and kwargs.get("output_size") is None
    return function in (torch.where, T.where) and len(args) + len(kwargs) == 1


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, PretendCuda) else x


def _wrap(x: torch.Tensor) -> PretendCuda:
    return PretendCuda(x)


def _refuse(function: Any, leaves: Sequence[Any]) -> None:
    where = [f"{tuple(x.shape)} on {DEVICE}" for x in leaves if isinstance(x, PretendCuda)]
    where += [f"{tuple(x.shape)} on cpu" for x in leaves if _is_host_data(x)]
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and"
        f" cpu! ({getattr(function, '__name__', function)}: {', '.join(where)})"
    )
