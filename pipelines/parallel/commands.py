"""What rank 0 tells the others, as JSON: dataclasses here, frames of bytes on a line.

A tick is a list of numbers. Tensors are no part of it: those of an `Admit` or a `Recut` follow over
the ranks' process group, in the order that `stage.py` and `rank.py` keep alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pipelines.contracts import LatentJob, SamplingParams
from pipelines.cuts import Cut
from pipelines.tasks import PictureRole, PictureUse, Task


class Table(NamedTuple):
    """A segment's modulation: `rows` vectors, known by a number; it follows if it `is_new`."""

    number: int
    rows: int
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """A trajectory that begins at `step`. Its tensors follow: latents, the last velocity if it
    `has_velocity`, and for each segment the embedded text and, if new, the modulation.

    The job goes without its `terms`: whose it is and when it is wanted is rank 0's affair.
    """

    number: int
    job: LatentJob
    step: int
    cuts: tuple[Cut, ...]
    text_tokens: int
    image_tokens: int
    has_velocity: bool
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recut:
    """The rest of a schedule is laid out anew; new modulation follows."""

    number: int
    cut: Cut
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One step of these trajectories, in this order."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Rank 0 ends in order, and so do the others."""


Command = Admit | Recut | Tick | Stop


class Order(NamedTuple):
    """A command, and the trajectories that are to be forgotten before it."""

    command: Command
    dropped: tuple[int, ...]


def encode(order: Order) -> bytes:
    """An order as a frame."""
    values = asdict(order.command)
    if isinstance(order.command, Admit):
        del values["job"]["terms"]
    kind = type(order.command).__name__
    return json.dumps({"do": kind, "drop": order.dropped, **values}).encode()


def decode(frame: bytes) -> Order:
    """The order in a frame that `encode` made."""
    values: dict[str, Any] = json.loads(frame)
    kind, dropped = values.pop("do"), tuple(values.pop("drop"))
    return Order(_DECODERS[kind](values), dropped)


def _admit(values: Mapping[str, Any]) -> Admit:
    job = values["job"]
    return Admit(
        number=values["number"],
        job=LatentJob(**{**job, "sampling": _sampling(job["sampling"])}),
        step=values["step"],
        cuts=_cuts(values["cuts"]),
        text_tokens=values["text_tokens"],
        image_tokens=values["image_tokens"],
        has_velocity=values["has_velocity"],
        tables=_tables(values),
    )


def _sampling(values: Mapping[str, Any]) -> SamplingParams:
    pictures = (
        PictureUse(**{**use, "role": PictureRole(use["role"])}) for use in values["pictures"]
    )
    read = {
        "planned_cuts": _cuts(values["planned_cuts"]),
        "task": Task(values["task"]),
        "pictures": tuple(pictures),
    }
    return SamplingParams(**{**values, **read})


def _recut(values: Mapping[str, Any]) -> Recut:
    return Recut(number=values["number"], cut=Cut(*values["cut"]), tables=_tables(values))


def _cuts(values: Sequence[Sequence[int]]) -> tuple[Cut, ...]:
    return tuple(Cut(*cut) for cut in values)


def _tables(values: Mapping[str, Any]) -> tuple[Table, ...]:
    return tuple(Table(*table) for table in values["tables"])


_DECODERS = {
    "Admit": _admit,
    "Recut": _recut,
    "Tick": lambda values: Tick(numbers=tuple(values["numbers"])),
    "Stop": lambda _: Stop(),
}
