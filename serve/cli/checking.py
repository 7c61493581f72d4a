"""What `sluice check` finds out: whether a configuration fits, and what to know before it runs."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# Ray's functions are untyped.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from serve.capacity import gpus
from serve.capacity.machines import PACKING, Machines, machines_of
from serve.capacity.packing import Packing, faults, pack
from serve.capacity.placement import Placement, placements
from serve.capacity.suitability import too_little_memory
from serve.cli.configurations import Configuration
from serve.nodes.ray_driver import joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Why something does not fit, what else to know, and with machines which of them are needed."""

    faults: Sequence[str]
    notes: Sequence[str]
    least: Packing | None = None
    most: Packing | None = None


def rows_of(configurations: Sequence[Configuration]) -> Mapping[str, Sequence[Placement]]:
    """The placements of each application; with several, deployments have its name before theirs."""
    rows = {each.application: placements(each.settings) for each in configurations}
    if len(rows) == 1:
        return rows
    return {
        name: [replace(row, deployment=f"{name}/{row.deployment}") for row in each]
        for name, each in rows.items()
    }


def check_fit(rows: Sequence[Placement], machines: Machines | None) -> Fit:
    """Whether `rows` fit, on `machines` if any are given; else only their GPUs' memory is known."""
    packing = _packing_note(machines) if _splits_gpus(rows) else None
    notes = [*_uncounted_notes(rows), *([] if packing is None else [packing])]
    if machines is None:
        return Fit(faults=_too_large(rows), notes=notes)
    return Fit(
        faults=faults(rows, machines),
        notes=notes,
        least=pack(rows, machines, at_most=False),
        most=pack(rows, machines, at_most=True),
    )


def machines_at(address: str) -> Machines:
    """The machines of the Ray cluster at `address`. Raises ConfigurationError if there is none."""
    import ray

    with joined(address):
        return machines_of(ray.nodes())


def _too_large(rows: Sequence[Placement]) -> list[str]:
    return [
        f"{row.deployment}: {too_little_memory(row, row.accelerator_type)}"
        for row in rows
        if row.accelerator_type is not None
        and (memory := gpus.memory_bytes(row.accelerator_type)) is not None
        and row.gpu_bytes > memory * row.gpus_each
    ]


def _uncounted_notes(rows: Sequence[Placement]) -> list[str]:
    return [
        f"{row.deployment}: whether it fits its GPU is unknown, as the memory of"
        f" {' and '.join(row.uncounted)} is: measure it, and set {row.setting}.num_gpus by it."
        for row in rows
        if row.uncounted
    ]


def _splits_gpus(rows: Sequence[Placement]) -> bool:
    """Whether replicas share GPUs, or take several: where spreading them can leave gaps."""
    return any(0 < row.num_gpus < 1 or row.num_gpus > 1 for row in rows)


def _packing_note(machines: Machines | None) -> str | None:
    if machines is not None and machines.packs:
        return None
    missing = "is not set" if machines is not None and machines.packs is False else "must be set"
    return (
        f"{PACKING}=1 {missing} where the head's `ray start` is run: without it Serve spreads"
        " replicas over nodes, and one that wants several GPUs of a node may find none free."
    )
