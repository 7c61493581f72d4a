"""The command `sluice`: draw an image, look after jobs, look at traces and load, check a
configuration, watch a machine, profile a denoiser.

A failure is one clear line on stderr for each mistake, and exit code 1; a wrong command line is a
box of typer's there, and exit code 2. torch is imported only by `generate` without `--url`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines import catalog
from pipelines.contracts import StepEvent
from pipelines.errors import ConfigurationError, SluiceError
from pipelines.skipping import forwards_of
from serve.api.schemas import ImageGenerationRequest, parse_request
from serve.cli import traces as commands
from serve.cli.client import ServerError, SluiceClient
from serve.cli.jobs.commands import User, jobs
from serve.cli.jobs.remote_drawing import RemoteDrawing
from serve.cli.outputs import OutputFiles
from serve.cli.profile import profile
from serve.cli.tables import console, machines_table, models_table, placement_table
from serve.cli.top import top
from serve.nodes.spot import Cloud
from serve.redrawing import merged, recorded_fields
from serve.settings.settings import Settings

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


class Format(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class DType(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def main() -> None:
    """The entry point."""
    try:
        app()
    except (SluiceError, ServerError, OSError) as error:
        _fail(error)


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; may hold `--ar 16:9`.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Draw a file again, but for what is said here.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A server that draws, instead of here.")] = None,
    model: Annotated[str | None, typer.Option(help="A name from `sluice models`.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, or auto.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image i is drawn with seed + i.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Number of images, 1 by default.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to avoid; needs --true-cfg.")] = None,
    true_cfg: Annotated[float | None, typer.Option(help="Above 1: a second forward.")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="When the answer is wanted; only with --url.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="-10 to 10, larger goes first; only with --url.")
    ] = None,
    min_steps: Annotated[
        int | None, typer.Option(help="Fewer steps, to be on time; only with --url.")
    ] = None,
    user: User = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file, or a folder that exists.")
    ] = None,
    format: Annotated[Format | None, typer.Option(help="By default the output's suffix.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    device: Annotated[Device, typer.Option(help="Only without --url.")] = Device.AUTO,
    dtype: Annotated[DType, typer.Option(help="Only without --url.")] = DType.AUTO,
) -> None:
    """Draw images and save them, in this process or on the server at --url."""
    if prompt is None and source is None:
        raise typer.BadParameter("say what to draw: a prompt, or --from and a file")
    if seed is None and source is None:
        seed = secrets.randbits(32)
    given: dict[str, object] = {
        "prompt": prompt,
        "model": model,
        "n": n,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "negative_prompt": negative,
        "true_cfg_scale": true_cfg,
        "deadline_ms": deadline_ms,
        "priority": priority,
        "min_steps": min_steps,
    }
    fields = given if source is None else merged(recorded_fields(source), given)
    files = OutputFiles.plan_for(parse_request(fields), output, format, overwrite=overwrite)
    request = parse_request({**fields, "output_format": files.output_format})
    if url is None:
        if request.model_fields_set & {"deadline_ms", "priority", "min_steps"}:
            raise typer.BadParameter(
                "nothing else waits here: --deadline-ms, --priority and --min-steps need --url"
            )
        if user is not None:
            raise typer.BadParameter("--user is whose job it is on a server: it needs --url")
        images = _draw_here(request, device, dtype)
    else:
        if device is not Device.AUTO or dtype is not DType.AUTO:
            raise typer.BadParameter("the server decides on device and dtype; leave out with --url")
        images = _draw_there(request, url, user)
    for image, path in zip(images, files.paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    for index, path in enumerate(files.paths):
        _out.print(f"{path}  [dim]seed {files.seed + index}[/dim]", soft_wrap=True)


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


def _draw_here(request: ImageGenerationRequest, device: Device, dtype: DType) -> list[bytes]:
    from serve.cli.drawing import LocalDrawing

    arguments = {} if request.model is None else {"model": request.model}
    drawing = LocalDrawing(Settings.load(arguments), device=device.value, dtype=dtype.value)
    plan = drawing.plan(request)
    warnings = list(plan.warnings)
    total = forwards_of(plan.params) * plan.params.num_images
    with _progress("{task.completed}/{task.total} steps") as progress:
        task = progress.add_task("loading the model", total=total)

        def on_step(_: StepEvent) -> None:
            progress.update(task, advance=1, description="drawing")

        images = [drawn.data for drawn in drawing.draw(plan, on_step, warnings.extend)]
    _warn(warnings)
    return images


def _draw_there(request: ImageGenerationRequest, url: str, user: str | None) -> Sequence[bytes]:
    with SluiceClient(url) as client:
        drawn = RemoteDrawing(client, _err, user=user).draw(request)
    _warn(drawn.warnings)
    return drawn.images


def _progress(count: str) -> Progress:
    """A line on stderr that is gone at the end; `count` shows how much is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(count),
        TimeElapsedColumn(),
        console=_err,
        transient=True,
    )


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        _err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


def _fail(error: Exception) -> NoReturn:
    _err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
    raise SystemExit(1)
