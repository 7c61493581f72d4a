"""Whether one replica could be on one kind of machine if it were alone there, and why not. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from serve.capacity import gpus
from serve.capacity.machines import NodeType
from serve.capacity.placement import Placement


class _Demand(NamedTuple):
    """One thing that a replica asks of a machine. `complaint` is about kinds none of which has it,
    all of which have whatever comes before."""

    is_met: Callable[[Placement, NodeType], bool]
    complaint: Callable[[Placement, Sequence[NodeType]], str]


def is_suitable(row: Placement, kind: NodeType) -> bool:
    """Whether `kind` has all that a replica asks for."""
    return all(demand.is_met(row, kind) for demand in _DEMANDS)


def why_nowhere(row: Placement, kinds: Sequence[NodeType]) -> str | None:
    """What a replica asks for and no machine has, with what would work; None if one has it all."""
    for demand in _DEMANDS:
        having = [kind for kind in kinds if demand.is_met(row, kind)]
        if not having:
            return f"{row.deployment}: {demand.complaint(row, kinds)}"
        kinds = having
    return None


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with `labels` is one of `selector`'s, by Ray's rules: a value, `in(a,b)`, and
    either after `!`."""
    return all(_has_value(labels.get(name), wanted) for name, wanted in selector.items())


def _has_value(value: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _has_value(value, wanted[1:])
    options = re.fullmatch(r"in\((.*)\)", wanted)
    return value in (options[1].split(",") if options else [wanted])


def _has_labels(row: Placement, kind: NodeType) -> bool:
    return matches(kind.labels, row.selector)


def _no_labels(row: Placement, kinds: Sequence[NodeType]) -> str:
    wanted = " ".join(f"{name}={value}" for name, value in row.selector.items())
    known = sorted({f"{name}={value}" for kind in kinds for name, value in kind.labels.items()})
    return (
        f"{row.setting}.label_selector: no node type has {wanted}; there are:"
        f" {', '.join(known) or 'no labels at all'}"
    )


def _has_accelerator(row: Placement, kind: NodeType) -> bool:
    return row.accelerator_type is None or gpus.is_a(kind.accelerator, row.accelerator_type)


def _no_accelerator(row: Placement, kinds: Sequence[NodeType]) -> str:
    known = sorted({kind.accelerator for kind in kinds if kind.accelerator})
    return (
        f"{row.setting}.accelerator_type: no node type that it may go to has an"
        f" {row.accelerator_type}; there are: {', '.join(known) or 'none that is known'}"
    )


def _has_gpus(row: Placement, kind: NodeType) -> bool:
    return kind.num_gpus >= row.num_gpus


def _too_few_gpus(row: Placement, kinds: Sequence[NodeType]) -> str:
    largest = max(kinds, key=lambda kind: kind.num_gpus)
    wanted = math.ceil(row.num_gpus)
    if largest.num_gpus == 0:
        return (
            f"wants a GPU, and no node that it may go to has one: set {row.setting}.num_gpus: 0 (it"
            " then computes on the CPU), or add machines with GPUs"
        )
    fits = (
        f"{row.setting}.num_gpus: {largest.num_gpus}"
        if len(row.bundles) == 1
        else f"{row.setting}.parallel with tensor x ulysses of at most {largest.num_gpus}"
    )
    return (
        f"wants {gpus.counted(wanted, 'GPU')} on one node, and the largest node type that it may"
        f" go to ({largest.name}) has {largest.num_gpus}: use {fits}, or machines with {wanted}"
    )


def _has_cpus(row: Placement, kind: NodeType) -> bool:
    return kind.num_cpus >= row.num_cpus


def _too_few_cpus(row: Placement, kinds: Sequence[NodeType]) -> str:
    largest = max(kinds, key=lambda kind: kind.num_cpus)
    return (
        f"wants {gpus.counted(row.num_cpus, 'CPU')} on one node, and the largest node type that it"
        f" may go to ({largest.name}) has {largest.num_cpus:g}: use {row.setting}.num_cpus:"
        f" {largest.num_cpus:g}, or machines with {math.ceil(row.num_cpus)}"
    )


def _has_resources(row: Placement, kind: NodeType) -> bool:
    return all(kind.resources.get(name, 0.0) >= needed for name, needed in _resources(row).items())


def _no_resources(row: Placement, kinds: Sequence[NodeType]) -> str:
    wanted = ", ".join(f"{name}: {needed:g}" for name, needed in _resources(row).items())
    known = sorted({f"{name}: {n:g}" for kind in kinds for name, n in kind.resources.items()})
    return (
        f"{row.setting}.resources: no node type that it may go to has {wanted}; there are:"
        f" {', '.join(known) or 'none'}"
    )


def _resources(row: Placement) -> dict[str, float]:
    names = {name for bundle in row.bundles for name in bundle.resources}
    return {name: sum(each.resources.get(name, 0.0) for each in row.bundles) for name in names}


def _has_memory(row: Placement, kind: NodeType) -> bool:
    memory = gpus.memory_bytes(kind.accelerator)
    return memory is None or row.gpu_bytes <= memory * row.gpus_each


def _too_little_memory(row: Placement, kinds: Sequence[NodeType]) -> str:
    largest = max(kinds, key=lambda kind: gpus.memory_bytes(kind.accelerator) or 0)
    return too_little_memory(row, largest.accelerator or "GPU")


def too_little_memory(row: Placement, accelerator: str) -> str:
    """That a replica's share of a GPU is too small for it, and what would do."""
    memory = gpus.memory_bytes(accelerator) or 0
    remedies: list[str] = []
    if row.gpu_bytes <= memory:
        remedies.append(f"{row.setting}.num_gpus: {math.ceil(20 * row.gpu_bytes / memory) / 20:g}")
    if row.dtype == "float32" and row.gpu_bytes / 2 <= memory * row.gpus_each:
        remedies.append(f"{row.setting}.dtype: bfloat16")
    large = [name for name, gib in gpus.MEMORY_GIB.items() if row.gpu_bytes <= gib * 2**30]
    if not remedies:
        remedies.append(f"a larger GPU, such as {large[0]}" if large else "smaller limits")
    share = f"{row.gpus_each:g} of " if row.gpus_each < 1 else ""
    return (
        f"needs {row.gpu_bytes / 2**30:.1f} GiB of GPU memory, and {share}{accelerator} has"
        f" {memory * row.gpus_each / 2**30:.1f}: use {' or '.join(remedies)}"
    )


_DEMANDS = (
    _Demand(_has_labels, _no_labels),
    _Demand(_has_accelerator, _no_accelerator),
    _Demand(_has_gpus, _too_few_gpus),
    _Demand(_has_cpus, _too_few_cpus),
    _Demand(_has_resources, _no_resources),
    _Demand(_has_memory, _too_little_memory),
)
