"""Tables for people, as rich renders them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.catalog import ModelSpec
from serve.capacity.gpus import counted

if TYPE_CHECKING:
    from deployments.replica_load import ReplicaLoad
    from serve.capacity.machines import Machines
    from serve.capacity.packing import Packing
    from serve.capacity.placement import Placement
    from serve.cli.profile_summary import Cost

_NAME_CHARS = 60
"""Of an operator; the names of kernels are longer."""

_UNBOUNDED = 10_000
"""Columns of what is no terminal: a pipe or a log has no width, and a name that is broken there can
be neither found nor copied."""


def console() -> Console:
    """stdout, as wide as the terminal is."""
    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED)


def models_table(specs: Sequence[ModelSpec]) -> Table:
    """One row per model of the catalogue."""
    table = _table("model", "parameters", "size", "steps", "guidance", "licence", "weights from")
    for spec in specs:
        table.add_row(
            spec.name,
            _count(spec.parameters),
            f"{spec.width}x{spec.height}",
            str(spec.num_inference_steps),
            f"{spec.guidance_scale:g}" if spec.guidance_embeds else "-",
            spec.license,
            escape(spec.source),
        )
    return table


def placement_table(title: str, rows: Sequence[Placement]) -> Table:
    """One row per deployment, and the sums: what the cluster must hold at least and at most."""
    table = _table(
        *("deployment", "replicas", "CPU", "GPU", "device", "weights", "activations"),
        *("trajectory", "GPU memory", "where"),
    )
    table.title, table.title_justify = escape(title), "left"
    for row in rows:
        memory = row.memory
        table.add_row(
            row.deployment,
            _span(row.min_replicas, row.max_replicas),
            f"{row.num_cpus:g}",
            f"{row.num_gpus:g}",
            f"{row.device} {row.dtype}" if row.dtype else row.device,
            _size(memory.weights if memory else 0),
            _size(memory.activations if memory else 0),
            _size(memory.trajectories if memory else 0),
            _gpu_memory(row),
            escape(row.where) or "any node",
        )
    cpus = _counted_span(
        sum(row.min_replicas * row.num_cpus for row in rows),
        sum(row.max_replicas * row.num_cpus for row in rows),
        "CPU",
    )
    gpus = _counted_span(
        sum(row.min_replicas * row.num_gpus for row in rows),
        sum(row.max_replicas * row.num_gpus for row in rows),
        "GPU",
    )
    table.caption = (
        f"In all: {cpus}, {gpus}. CPU, GPU and memory are a replica's; memory is for the largest"
        " image, or full batch of such, that the limits allow. GPU memory also has what the engine"
        " keeps free and CUDA's own."
    )
    table.caption_justify = "left"
    return table


def machines_table(machines: Machines, least: Packing, most: Packing) -> Table:
    """One row per kind of machine: how many are needed, and what lands on them."""
    table = _table("node type", "CPU", "GPU", "labels", "needed", "allowed", "holds")
    for kind in machines.types:
        gpu = f"{kind.num_gpus} {kind.accelerator or ''}" if kind.num_gpus else "0"
        table.add_row(
            kind.name,
            f"{kind.num_cpus:g}",
            gpu.strip(),
            escape(" ".join(f"{name}={value}" for name, value in kind.labels.items())) or "-",
            _span(least.nodes[kind.name], most.nodes[kind.name]),
            _span(kind.min_nodes, kind.max_nodes),
            ", ".join(name for name, home in most.homes.items() if home[kind.name]) or "-",
        )
    return table


def replicas_table(loads: Sequence[ReplicaLoad]) -> Table:
    """One row per denoiser replica, in the order given."""
    table = _table("replica", "images", "seconds of work")
    for load in loads:
        table.add_row(load.replica, f"{load.works}", f"{load.queued_s:.1f}")
    return table


def operators_table(costs: Sequence[tuple[str, Cost]], *, ticks: int) -> Table:
    """One row per operator, with what it took itself in a tick."""
    table = _table("took itself", "calls", "CPU ms", "CUDA ms")
    table.caption, table.caption_justify = "A tick, on average.", "left"
    for name, cost in costs:
        table.add_row(
            escape(name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 3]}..."),
            f"{cost.calls / ticks:.0f}",
            f"{cost.cpu_us / ticks / 1e3:.2f}",
            f"{cost.device_us / ticks / 1e3:.2f}" if cost.device_us else "-",
        )
    return table


def _table(*columns: str) -> Table:
    """A table that breaks lines where it is too wide, but for the names in its first column."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, no_wrap=name == columns[0], overflow="fold")
    return table


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _counted_span(low: float, high: float, noun: str) -> str:
    return counted(high, noun) if low == high else f"{_span(low, high)} {noun}s"


def _count(parameters: int) -> str:
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f} B"
    return f"{parameters / 10**6:.1f} M"


def _gpu_memory(row: Placement) -> str:
    if not row.uncounted:
        return _size(row.gpu_bytes)
    return "unknown" if row.memory is None else f"over {_size(row.gpu_bytes)}"


def _size(num_bytes: int) -> str:
    if num_bytes == 0:
        return "-"
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.1f} MiB"
