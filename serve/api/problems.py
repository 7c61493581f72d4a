"""Problems: the mistakes of a request, gathered so that all are told at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines.errors import InvalidRequest

MOST_TOLD = 8

T = TypeVar("T")


class Checked(Generic[T]):
    """What a check has found: its value, or the error that it raised."""

    def __init__(self, found: T | InvalidRequest) -> None:
        self._found = found

    @property
    def value(self) -> T:
        """Raises the check's InvalidRequest: what is built on it fails with it, and not twice."""
        if isinstance(self._found, InvalidRequest):
            raise self._found
        return self._found

    def or_else(self, default: T) -> T:
        """The value, or `default` where the check failed: for what can be checked all the same."""
        return default if isinstance(self._found, InvalidRequest) else self._found


class Problems:
    """Of one request, in the order in which they were found."""

    def __init__(self) -> None:
        self._errors: list[InvalidRequest] = []

    def check(self, find: Callable[[], T]) -> Checked[T]:
        """What `find` returns, or the InvalidRequest that it raises, which is kept for `tell`."""
        try:
            return Checked(find())
        except InvalidRequest as error:
            self.add(error)
            return Checked(error)

    def add(self, error: InvalidRequest) -> None:
        """Keep it, unless it is there."""
        if error not in self._errors:
            self._errors.append(error)

    @property
    def found(self) -> tuple[InvalidRequest, ...]:
        """All of them, not told yet."""
        return tuple(self._errors)

    @property
    def are_enough(self) -> bool:
        """Whether as many are there as are told: no further one need be found words for."""
        return len(self._errors) >= MOST_TOLD

    def tell(self) -> None:
        """Raises the first, which says what all of them do; nothing if there are none."""
        if not self._errors:
            return
        first, *others = self._errors
        if not others:
            raise first
        said = [error.message for error in self._errors[:MOST_TOLD]]
        if len(self._errors) > MOST_TOLD:
            said.append(f"and {len(self._errors) - MOST_TOLD} more like these")
        raise type(first)("; ".join(said), param=first.param)
