"""The numbers of many requests as columns: a plan over thousands is a few vector operations."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.scheduling.group import Group, Row

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]

_slot = attrgetter("slot")


class Columns(NamedTuple):
    """`Row` of each of some requests, in their order; every column is (n,), of float64 or bool."""

    cost: Vector
    depth: Vector
    tick_s: Vector
    deadline: Vector
    priority: Vector
    least_cost: Vector
    least_depth: Vector
    is_promised: Flags

    def inserted(self, index: int, row: Row) -> Columns:
        """These with one more request, which gets place `index`."""
        numbers = zip(self[:-1], row[:-1], strict=True)
        return Columns(
            *(np.insert(column, index, value) for column, value in numbers),
            is_promised=np.insert(self.is_promised, index, row.is_promised),
        )


class Table:
    """Rows of the requests that joined, kept up to date by `update`."""

    def __init__(self) -> None:
        self._values = np.zeros((len(Columns._fields), 64))
        self._free = list(range(64))

    def join(self, group: Group) -> None:
        """Find a place for a request; `update` fills it in."""
        if not self._free:
            size = self._values.shape[1]
            self._values = np.concatenate([self._values, np.zeros_like(self._values)], axis=1)
            self._free = list(range(size, 2 * size))
        group.slot = self._free.pop()

    def leave(self, group: Group) -> None:
        """Free the place of a request."""
        self._free.append(group.slot)

    def update(self, group: Group) -> None:
        """After any change of a request."""
        self._values[:, group.slot] = group.row()

    def columns(self, groups: Sequence[Group]) -> Columns:
        """The columns of `groups`: a copy."""
        slots = np.fromiter(map(_slot, groups), np.intp, len(groups))
        *numbers, is_promised = self._values[:, slots]
        return Columns(*numbers, is_promised=is_promised.astype(np.bool_))
