"""`sluice edit`: a picture, and what is to become of it, here or on a server."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.errors import UnsupportedFeature
from serve.cli import options
from serve.cli.client import ServerError
from serve.cli.draw import DrawCommand
from serve.cli.jobs.commands import User
from serve.cli.options import Device, DType
from serve.cli.picture_files import CommandFailed, PictureFiles
from serve.errors import ERROR_TABLE

_IMAGE = "IMAGE"
_PREFIX = re.compile(r"\s*\[\s*edit\s*\]", re.IGNORECASE)
_OPERATOR = "its operator can add"
_NEEDED = ("image", "prompt")
"""Fields that a refusal names where no model edits by instruction."""


def edit(
    image: Annotated[Path, typer.Argument(metavar=_IMAGE, help="The picture: PNG, JPEG, WebP.")],
    instruction: Annotated[
        str,
        typer.Argument(
            help="What to change; with --strength, --mask or --outpaint, what is to be seen."
        ),
    ],
    mask: options.Mask = None,
    strength: options.Strength = None,
    outpaint: options.Outpaint = None,
    paste_back: options.PasteBack = None,
    url: options.Url = None,
    model: options.Model = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT, or auto: the picture's.")] = "auto",
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    n: options.Count = None,
    negative: options.Negative = None,
    true_cfg: options.TrueCfg = None,
    user: User = None,
    output: options.Output = None,
    format: options.OutputFormat = None,
    overwrite: options.Overwrite = False,
    device: options.DeviceHere = Device.AUTO,
    dtype: options.DTypeHere = DType.AUTO,
) -> None:
    """Edit a picture: by instruction; inside of a mask; around it; or from it, with a strength."""
    pictures = PictureFiles(
        image=image,
        mask=mask,
        outpaint=outpaint,
        strength=strength,
        paste_back=paste_back,
        image_name=_IMAGE,
    )
    picture_fields, uploads = pictures.read()
    is_by_words = strength is None and not pictures.has_area
    is_prefixed = _PREFIX.match(instruction) is not None
    fields: dict[str, Any] = {
        # Without it a model that cannot edit would draw what the words describe.
        "prompt": f"[EDIT] {instruction}" if is_by_words and not is_prefixed else instruction,
        "model": model,
        "n": n,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": secrets.randbits(32) if seed is None else seed,
        "negative_prompt": negative,
        "true_cfg_scale": true_cfg,
        **picture_fields,
    }
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
    try:
        command.draw(fields, uploads, title=instruction)
    except CommandFailed as failed:
        if is_by_words and _needs_another_model(failed.__cause__):
            raise CommandFailed(_with_ways_out(str(failed), is_here=url is None)) from failed
        raise


def _needs_another_model(cause: BaseException | None) -> bool:
    if isinstance(cause, ServerError):
        return cause.code == ERROR_TABLE[UnsupportedFeature].code and cause.param in _NEEDED
    return isinstance(cause, UnsupportedFeature) and cause.param in _NEEDED


def _with_ways_out(message: str, *, is_here: bool) -> str:
    """`message` with what can be done: another model, or what the one that is there does."""
    if is_here:
        message = message.replace(_OPERATOR, "choose one with --model:")
    return f"{message}; or add --strength 0.6, to draw from the picture what the words describe"
