"""Tables for people, as rich renders them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pipelines.catalog import ModelSpec

if TYPE_CHECKING:
    from serve.placement import Placement


def models_table(specs: Sequence[ModelSpec]) -> Table:
    """One row per model of the catalogue."""
    table = Table("model", "parameters", "size", "steps", "guidance", "licence", "weights from")
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
    table = Table(
        "deployment", "replicas", "CPU", "GPU", "GPU in all", "device", "dtype", "weights", "where",
        title=escape(title), title_justify="left", show_footer=True,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.deployment,
            _span(row.min_replicas, row.max_replicas),
            f"{row.num_cpus:g}",
            f"{row.num_gpus:g}",
            _span(row.min_replicas * row.num_gpus, row.max_replicas * row.num_gpus),
            row.device,
            row.dtype or "-",
            "-" if row.weights_bytes is None else _size(row.weights_bytes),
            escape(row.where) or "any node",
        )
    table.columns[0].footer = "in all"
    table.columns[2].footer = _span(
        sum(row.min_replicas * row.num_cpus for row in rows),
        sum(row.max_replicas * row.num_cpus for row in rows),
    )
    table.columns[4].footer = _span(
        sum(row.min_replicas * row.num_gpus for row in rows),
        sum(row.max_replicas * row.num_gpus for row in rows),
    )
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
