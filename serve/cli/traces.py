"""`sluice trace` and `sluice traces`: what a server remembers of its requests, in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from serve.cli.client import SluiceClient
from serve.cli.tables import console
from serve.tracing.views.summary import TraceFilters, summarise
from serve.tracing.views.terminal import trace_view, traces_table
from serve.tracing.views.waterfall import waterfall

_Url = Annotated[str, typer.Option(help="The server; may end in /v1.")]
_HERE = "http://localhost:8000"


def trace(
    trace_id: Annotated[str, typer.Argument(help="The 32 digits of the header `x-trace-id`.")],
    url: _Url = _HERE,
    ticks: Annotated[bool, typer.Option(help="Each tick, and who was in it.")] = False,
) -> None:
    """Draw where a request's time went."""
    with SluiceClient(url) as client:
        otlp = client.trace(trace_id)
    # Bars of some width, where a pipe or a log has none of its own.
    out = Console() if sys.stdout.isatty() else Console(width=140)
    out.print(trace_view(waterfall(otlp), summarise(otlp), width=out.width, ticks=ticks))


def traces(
    url: _Url = _HERE,
    slow: Annotated[bool, typer.Option("--slow", help="Only the slowest tenth.")] = False,
    missed: Annotated[bool, typer.Option("--missed", help="Only missed deadlines.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only errors.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
) -> None:
    """List the latest traces of a server."""
    filters = TraceFilters(slow=slow, missed=missed, failed=failed, tenant=tenant)
    with SluiceClient(url) as client:
        found = client.traces(filters)
    out = console()
    if found:
        out.print(traces_table(found))
    else:
        out.print("No trace that is kept is like this." if filters.chosen else "No trace yet.")
