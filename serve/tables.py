"""Tables for people, as rich renders them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from pipelines.catalog import ModelSpec

if TYPE_CHECKING:
    from serve.placement import Placement


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
    table = _table("deployment", "replicas", "CPU", "GPU", "GPUs", "device", "weights", "where")
    table.title, table.title_justify = escape(title), "left"
    for row in rows:
        table.add_row(
            row.deployment,
            _span(row.min_replicas, row.max_replicas),
            f"{row.num_cpus:g}",
            f"{row.num_gpus:g}",
            _span(row.min_replicas * row.num_gpus, row.max_replicas * row.num_gpus),
            f"{row.device} {row.dtype}" if row.dtype else row.device,
            "-" if row.weights_bytes is None else _size(row.weights_bytes),
            escape(row.where) or "any node",
        )
    cpus = _span(
        sum(row.min_replicas * row.num_cpus for row in rows),
        sum(row.max_replicas * row.num_cpus for row in rows),
    )
    gpus = _span(
        sum(row.min_replicas * row.num_gpus for row in rows),
        sum(row.max_replicas * row.num_gpus for row in rows),
    )
    table.caption = f"In all: {cpus} CPUs, {gpus} GPUs; CPU, GPU and weights are per replica."
    table.caption_justify = "left"
    return table


def _table(*columns: str) -> Table:
    """A table that breaks lines where it is too wide, but for the names in its first column."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, no_wrap=name == columns[0], overflow="fold")
    return table


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _count(parameters: int) -> str:
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f} B"
    return f"{parameters / 10**6:.1f} M"


def _size(num_bytes: int) -> str:
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.1f} MiB"
