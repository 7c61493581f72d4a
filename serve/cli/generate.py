"""`sluice generate`: pictures from words, and from a picture, here or on a server."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from serve.cli import options
from serve.cli.draw import DrawCommand
from serve.cli.jobs.commands import User
from serve.cli.options import Device, DType
from serve.cli.picture_files import PictureFiles, redrawn_fields
from serve.redrawing import merged, recorded_fields


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; may hold `--ar 16:9`.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Draw a file again, but for what is said here.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to draw from; the prompt says what it becomes.")
    ] = None,
    strength: options.Strength = None,
    mask: options.Mask = None,
    outpaint: options.Outpaint = None,
    paste_back: options.PasteBack = None,
    url: options.Url = None,
    model: options.Model = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT, or auto: the picture's, else the model's.")
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    n: options.Count = None,
    negative: options.Negative = None,
    true_cfg: options.TrueCfg = None,
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
    output: options.Output = None,
    format: options.OutputFormat = None,
    overwrite: options.Overwrite = False,
    device: options.DeviceHere = Device.AUTO,
    dtype: options.DTypeHere = DType.AUTO,
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
    pictures = PictureFiles(
        image=image, mask=mask, outpaint=outpaint, strength=strength, paste_back=paste_back
    )
    picture_fields, uploads = pictures.read()
    given |= picture_fields
    if source is not None:
        recorded = redrawn_fields(recorded_fields(source), uploads, source)
        given = merged(recorded, given)
    command = DrawCommand(
        pictures=pictures,
        url=url,
        user=user,
        device=device,
        dtype=dtype,
        output=output,
        format=format,
        overwrite=overwrite,
    )
    command.draw(given, uploads)
