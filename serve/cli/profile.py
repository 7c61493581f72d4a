"""`sluice profile`: the next ticks of a denoiser replica, as a file for ui.perfetto.dev.

For operators, on a machine of the cluster: it joins as a driver, as no HTTP route may do this.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import InvalidRequest
from serve.cli.tables import console, operators_table, replicas_table

if TYPE_CHECKING:
    from deployments.profiling import TickProfile
    from deployments.replica_load import ReplicaLoad
    from pipelines.engine.observe.profiling import ProfileRequest

_out = console()
_SUFFIX = ".json.gz"
_ROWS = 12


def profile(
    address: Annotated[
        str, typer.Option(help="The Ray cluster: auto on one of its machines, or HOST:PORT.")
    ] = "auto",
    app: Annotated[str, typer.Option(help="The Serve application.")] = "default",
    ticks: Annotated[int, typer.Option(help="Ticks to record, 1 to 50.")] = 10,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for them, at most 600.")] = 60.0,
    replica: Annotated[
        str | None, typer.Option(help="A replica from --list; by default the busiest.")
    ] = None,
    shapes: Annotated[bool, typer.Option(help="With the shapes of operators' arguments.")] = False,
    stacks: Annotated[
        bool, typer.Option(help="With lines of Python; slow, and names the paths of files.")
    ] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to save; ends in .json.gz.")
    ] = Path("profile.json.gz"),
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    list_replicas: Annotated[
        bool, typer.Option("--list", help="Only list the denoiser's replicas.")
    ] = False,
) -> None:
    """Record the next ticks of a denoiser for ui.perfetto.dev. On a machine of the cluster."""
    from deployments.profiling import Denoisers, chosen
    from pipelines.engine.observe.profiling import ProfileRequest
    from serve.nodes.ray_driver import joined

    request = ProfileRequest(ticks=ticks, timeout_s=timeout, with_shapes=shapes, with_stack=stacks)
    if not list_replicas:
        _check_output(output, overwrite=overwrite)
    with joined(address):
        denoisers = Denoisers.of(app)
        loads = denoisers.loads()
        if list_replicas:
            _out.print(replicas_table(loads))
            return
        load = chosen(loads, replica)
        _announce(load, request, others=len(loads) - 1)
        taken = denoisers.profile(load.replica, request)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(taken.trace)
    _report(taken, request, output)


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Raises InvalidRequest for a file that the profile could not be written to."""
    if not output.name.endswith(_SUFFIX):
        raise InvalidRequest(f"output: {output} must end in {_SUFFIX}", param="output")
    if output.exists() and not overwrite:
        raise InvalidRequest(
            f"{output} exists; choose another --output, or add --overwrite", param="output"
        )


def _announce(load: ReplicaLoad, request: ProfileRequest, *, others: int) -> None:
    _out.print(
        f"replica {load.replica} ({load.works} images, {load.queued_s:.1f} s of work;"
        f" {others} other replicas): {request.ticks} ticks within {request.timeout_s:g} s",
        highlight=False,
    )


def _report(taken: TickProfile, request: ProfileRequest, output: Path) -> None:
    """The table and what is to be known of the file; it is saved already."""
    from serve.cli.profile_summary import summarise_profile

    summary = summarise_profile(taken.trace)
    _out.print(operators_table(summary.top(_ROWS), ticks=taken.ticks))
    if summary.tick_us:
        mean_ms, longest_ms = fmean(summary.tick_us) / 1e3, max(summary.tick_us) / 1e3
        _out.print(
            f"{taken.ticks} ticks of {mean_ms:.1f} ms on average, {longest_ms:.1f} ms at most;"
            " recording makes them longer",
            highlight=False,
        )
    if taken.ticks < request.ticks:
        _out.print(f"{request.ticks} were asked for: no more came in time", highlight=False)
    if taken.ranks > 1:
        _out.print(f"rank 0 of {taken.ranks}: the others step the same works", highlight=False)
    _out.print(f"{output}  {len(taken.trace) / 1e6:.1f} MB", highlight=False, soft_wrap=True)
    _out.print("Open it at https://ui.perfetto.dev, which keeps it in the browser.")
