"""ByteCache: values that were asked for lately, within a bound in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Kept(NamedTuple, Generic[Value]):
    value: Value
    num_bytes: int


class ByteCache(Generic[Key, Value]):
    """Keeps at most `max_bytes`; who was asked for longest ago leaves first. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, _Kept[Value]] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: Key) -> Value | None:
        """The value, if it is kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key].value

    def put(self, key: Key, value: Value, num_bytes: int) -> None:
        """Keep a value of `num_bytes`, unless it alone is over the bound."""
        if (before := self._kept.pop(key, None)) is not None:
            self._num_bytes -= before.num_bytes
        if num_bytes <= self._max_bytes:
            self._kept[key] = _Kept(value, num_bytes)
            self._num_bytes += num_bytes
        self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Keep at most so much from now on."""
        self._max_bytes = max_bytes
        self._shrink()

    def _shrink(self) -> None:
        while self._num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
