"""Where the command line saves images: names, formats, and never over a file by accident."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import InvalidRequest
from serve.api.schemas import ImageGenerationRequest

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_SLUG_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFiles:
    """The paths of a request's images, in order, their format, and the seed of the first."""

    paths: tuple[Path, ...]
    output_format: str
    seed: int

    @classmethod
    def plan_for(
        cls,
        request: ImageGenerationRequest,
        output: Path | None,
        output_format: str | None,
        *,
        overwrite: bool,
    ) -> OutputFiles:
        """As `plan`, for the images of a request that names its seed; its own format by default."""
        assert request.seed is not None
        return cls.plan(
            output,
            output_format,
            prompt=request.prompt,
            seed=request.seed,
            count=request.n,
            overwrite=overwrite,
            default_format=request.output_format,
        )

    @classmethod
    def plan(
        cls,
        output: Path | None,
        output_format: str | None,
        *,
        prompt: str,
        seed: int,
        count: int,
        overwrite: bool,
        default_format: str = "png",
    ) -> OutputFiles:
        """Paths for `count` images of seeds `seed`, `seed + 1` and so on.

        `output` is a file (with the seed inserted when there are several images), an existing
        folder, or None for this one. Raises InvalidRequest when the suffix is not the format's, or
        when a file exists and may not be replaced.
        """
        if output is None or output.is_dir():
            chosen = output_format or default_format
            path = (output or Path()) / f"{_slug(prompt)}-{seed}.{chosen}"
            several = path.with_name(f"{_slug(prompt)}-{{seed}}.{chosen}")
        else:
            chosen = _format_of(output, output_format)
            path, several = output, output.with_name(f"{output.stem}-{{seed}}{output.suffix}")
        paths = (
            [path]
            if count <= 1
            else [
                several.with_name(several.name.replace("{seed}", str(seed + i)))
                for i in range(count)
            ]
        )
        if not overwrite and (existing := [path for path in paths if path.exists()]):
            raise InvalidRequest(
                f"{existing[0]} exists; choose another --output, or add --overwrite",
                param="output",
            )
        return cls(paths=tuple(paths), output_format=chosen, seed=seed)


def _format_of(path: Path, output_format: str | None) -> str:
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if by_suffix is None:
        known = ", ".join(_SUFFIXES)
        raise InvalidRequest(f"output: {path} must end in one of {known}", param="output")
    if output_format not in (None, by_suffix):
        raise InvalidRequest(
            f"format: {output_format} contradicts the suffix of {path}", param="format"
        )
    return by_suffix


def _slug(prompt: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:_SLUG_CHARS].strip("-")
    return words or "image"
