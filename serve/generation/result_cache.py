"""Answers kept for requests that are repeated exactly: bounded by bytes and by time.

Of the values only their size is known. Whose an answer is belongs into its key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ResultCache(Generic[Key, Value]):
    """Keeps what was used last, of `max_bytes` in all, each for `ttl_s`. For one event loop.

    Times are seconds of any clock that does not go back, and come in as arguments.
    """

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all that is kept."""
        return self._num_bytes

    def get(self, key: Key, now: float) -> Value | None:
        """The value that was put lately, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: Key, value: Value, *, num_bytes: int, since: float) -> None:
        """Keep `value` from `since` on, unless it alone is larger than the cache."""
        self.drop(key)
        if num_bytes > self._max_bytes:
            return
        self._entries[key] = _Entry(value, num_bytes, since + self._ttl_s)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Key) -> None:
        """Forget the value of `key`, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._num_bytes -= entry.num_bytes


class _Entry(NamedTuple, Generic[Value]):
    value: Value
    num_bytes: int
    expires: float
