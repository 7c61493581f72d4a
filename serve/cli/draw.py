"""What `generate` and `edit` have in common: drawing, here or on a server, and saving the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.contracts import StepEvent
from pipelines.skipping import forwards_of
from serve.api.schemas import NO_UPLOADS, ImageGenerationRequest, parse_request
from serve.cli.client import SluiceClient
from serve.cli.jobs.remote_drawing import RemoteDrawing
from serve.cli.options import Device, DType, Format
from serve.cli.outputs import OutputFiles
from serve.cli.picture_files import PictureFiles
from serve.cli.tables import console
from serve.settings.settings import Settings

_out = console()
_err = Console(stderr=True)
_TERMS = {"deadline_ms", "priority", "min_steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawCommand:
    """Who draws (this process, or the server at `url`), and where the files go.

    `pictures` are the options about these, in whose words refusals are told.
    """

    pictures: PictureFiles
    url: str | None
    user: str | None
    device: Device
    dtype: DType
    output: Path | None
    format: Format | None
    overwrite: bool

    def draw(
        self,
        fields: Mapping[str, Any],
        uploads: Mapping[str, bytes] = NO_UPLOADS,
        *,
        title: str | None = None,
    ) -> None:
        """Draw what `fields` ask for, with the files of `uploads` in them, and save it; files are
        named after `title`, or the prompt.

        Raises CommandFailed, typer.BadParameter for options that do not fit together, and OSError.
        """
        with self.pictures.told_in_options():
            asked = parse_request(fields, uploads)
            files = OutputFiles.plan_for(
                asked if title is None else asked.model_copy(update={"prompt": title}),
                self.output,
                self.format,
                overwrite=self.overwrite,
            )
            request = parse_request({**fields, "output_format": files.output_format}, uploads)
            images = self._drawn(request)
        for image, path in zip(images, files.paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        for index, path in enumerate(files.paths):
            _out.print(f"{path}  [dim]seed {files.seed + index}[/dim]", soft_wrap=True)

    def _drawn(self, request: ImageGenerationRequest) -> Sequence[bytes]:
        if self.url is None:
            if request.model_fields_set & _TERMS:
                raise typer.BadParameter(
                    "nothing else waits here: --deadline-ms, --priority and --min-steps need --url"
                )
            if self.user is not None:
                raise typer.BadParameter("--user is whose job it is on a server: it needs --url")
            return self._drawn_here(request)
        if self.device is not Device.AUTO or self.dtype is not DType.AUTO:
            raise typer.BadParameter("the server decides on device and dtype; leave out with --url")
        return self._drawn_there(request, self.url)

    def _drawn_here(self, request: ImageGenerationRequest) -> list[bytes]:
        from serve.cli.drawing import LocalDrawing

        arguments = {} if request.model is None else {"model": request.model}
        drawing = LocalDrawing(
            Settings.load(arguments), device=self.device.value, dtype=self.dtype.value
        )
        plan = drawing.plan(request)
        warnings = list(plan.warnings)
        total = forwards_of(plan.params) * plan.params.num_images
        with _progress("{task.completed}/{task.total} steps") as progress:
            task = progress.add_task("loading the model", total=total)

            def on_step(_: StepEvent) -> None:
                progress.update(task, advance=1, description="drawing")

            images = [drawn.data for drawn in drawing.draw(plan, on_step, warnings.extend)]
        self._warn(warnings)
        return images

    def _drawn_there(self, request: ImageGenerationRequest, url: str) -> Sequence[bytes]:
        with SluiceClient(url) as client:
            drawn = RemoteDrawing(client, _err, user=self.user).draw(request)
        self._warn(drawn.warnings)
        return drawn.images

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in map(self.pictures.in_options, warnings):
            _err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


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
