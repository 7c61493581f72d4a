"""Options that several commands share, as typer takes them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


Url = Annotated[str | None, typer.Option(help="A server that draws, instead of here.")]
Model = Annotated[str | None, typer.Option(help="A name from `sluice models`.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale.")]
Seed = Annotated[int | None, typer.Option(help="Image i is drawn with seed + i.")]
Count = Annotated[int | None, typer.Option("-n", help="Number of images, 1 by default.")]
Negative = Annotated[str | None, typer.Option(help="What to avoid; needs --true-cfg.")]
TrueCfg = Annotated[float | None, typer.Option(help="Above 1: a second forward.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", "--out", help="A file, or a folder that exists."),
]
OutputFormat = Annotated[Format | None, typer.Option(help="By default the output's suffix.")]
Overwrite = Annotated[bool, typer.Option(help="Replace files that exist.")]
DeviceHere = Annotated[Device, typer.Option(help="Only without --url.")]
DTypeHere = Annotated[DType, typer.Option(help="Only without --url.")]

Mask = Annotated[
    Path | None,
    typer.Option(
        help="As large as the picture: what is transparent in it is drawn anew, or, where nothing"
        " is, what is white."
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(help="0 to 1: how far the picture goes back to noise; 1 leaves nothing of it."),
]
Outpaint = Annotated[
    str | None,
    typer.Option(help="Pixels to add around it and draw.", metavar="LEFT,TOP,RIGHT,BOTTOM"),
]
PasteBack = Annotated[
    bool | None,
    typer.Option(
        "--paste-back/--no-paste-back",
        help="With --mask or --outpaint: all else stays the picture's own, pixel by pixel; it"
        " does by default.",
    ),
]
