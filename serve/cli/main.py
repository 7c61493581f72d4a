"""The command `sluice`: draw and edit images, look after jobs, look at traces and load, check a
configuration, watch a machine, profile a denoiser.

A failure is one clear line on stderr for each mistake, and exit code 1; a wrong command line is a
box of typer's there, and exit code 2. torch is imported only where something is drawn without
`--url`.
"""

from __future__ import annotations

import logging
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from pipelines import catalog
from pipelines.errors import ConfigurationError, SluiceError
from serve.cli import traces as commands
from serve.cli.client import ServerError
from serve.cli.edit import edit
from serve.cli.generate import generate
from serve.cli.jobs.commands import jobs
from serve.cli.picture_files import CommandFailed
from serve.cli.profile import profile
from serve.cli.tables import console, machines_table, models_table, placement_table
from serve.cli.top import top
from serve.nodes.spot import Cloud

app = typer.Typer(
    help="Draw images with FLUX-family models, here or on a Sluice server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = console()
_err = Console(stderr=True)

app.command()(commands.trace)
app.command()(commands.traces)
app.add_typer(jobs, name="jobs")
app.command()(top)


def main() -> None:
    """The entry point."""
    try:
        app()
    except (SluiceError, ServerError, CommandFailed, OSError) as error:
        _fail(error)


app.command()(generate)
app.command()(edit)


@app.command()
def models() -> None:
    """List the models that Sluice knows."""
    _out.print(models_table(list(catalog.models().values())))


@app.command()
def check(
    configuration: Annotated[
        Path, typer.Argument(help="A Serve YAML, a RayService, or a bare settings file.")
    ],
    cluster: Annotated[
        Path | None, typer.Option(help="Machines to fit: a file for `ray up`, or a RayService.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to fit, such as auto.")
    ] = None,
) -> None:
    """Validate a configuration, and print what it would place where. Starts nothing."""
    from serve.capacity.machines import read_machines
    from serve.cli.checking import check_fit, machines_at, rows_of
    from serve.cli.configurations import read_configurations

    if cluster is not None and address is not None:
        raise typer.BadParameter("--cluster and --address are two clusters; choose one")
    found = read_configurations(configuration)
    rows = rows_of(found)
    for each in found:
        settings = each.settings
        title = f"{each.application}: {settings.model_id}, weights from"
        title += f" {settings.model_spec().source}, layout {settings.stages.layout}"
        _out.print(placement_table(title, rows[each.application]))
        if each.overridden:
            names = ", ".join(each.overridden)
            _out.print(f"Not shown: entries under `deployments:` override {names}.")
    machines = None
    if cluster is not None:
        machines = read_machines(cluster)
    elif address is not None:
        machines = machines_at(address)
    fit = check_fit([row for each in rows.values() for row in each], machines)
    if machines is not None and fit.least and fit.most:
        _out.print(machines_table(machines, fit.least, fit.most))
    for note in fit.notes:
        _out.print(note, highlight=False)
    if fit.faults:
        raise ConfigurationError("it does not fit:\n" + "\n".join(fit.faults))
    if machines is not None:
        _out.print("It fits.")


@app.command()
def manifest(
    folder: Annotated[Path, typer.Argument(help="A model in the diffusers format.")],
) -> None:
    """Write size and SHA-256 of a model's files beside them, to be checked wherever they go."""
    from deployments.weights.manifest import write_manifest

    _out.print(str(write_manifest(folder)), soft_wrap=True)


@app.command()
def drain_on_notice(
    cloud: Annotated[Cloud, typer.Option(help="Whose machine this is.")],
    rebalance: Annotated[
        bool, typer.Option(help="On AWS, leave a machine as soon as it is at elevated risk.")
    ] = False,
    node_id: Annotated[str | None, typer.Option(hidden=True)] = None,
    metadata_url: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Drain this machine's Ray node when the cloud gives notice. Runs as long as the node does."""
    from serve.nodes.ray_node import RayNode
    from serve.nodes.spot_watch import SpotWatch

    if rebalance and cloud is not Cloud.AWS:
        raise typer.BadParameter("--rebalance is for --cloud aws: others recommend nothing")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    metadata = cloud.metadata(metadata_url, rebalance=rebalance)
    SpotWatch(metadata, RayNode.find(node_id)).run()


app.command()(profile)


@app.command()
def version() -> None:
    """Print the versions of Sluice and of what it stands on."""
    # Not above: with the whole HTTP side it takes seconds, which every other command would wait.
    from serve.http import product_version

    _out.print(f"sluice {product_version()}")
    for name in ("ray", "torch", "diffusers", "transformers"):
        _out.print(f"{name} {installed_version(name)}", highlight=False)


def _fail(error: Exception) -> NoReturn:
    _err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
    raise SystemExit(1)
