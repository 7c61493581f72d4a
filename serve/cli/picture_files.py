"""The pictures that a command is given: from files here to the fields of a request.

Each mistake is one line that names the option. A mask may be of either world: what is transparent
in it is drawn anew, or, where nothing is, what is white.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

import typer

from pipelines.errors import InvalidRequest, SluiceError
from pipelines.tasks import PictureRole
from serve.api.pictures.heads import PictureHead, read_head
from serve.api.pictures.uploads import upload_of
from serve.cli.client import ServerError

_MOST_BYTES = 64 * 2**20
"""Of one file; servers take no larger bodies unless they are told to."""
_SIDES = ("left", "top", "right", "bottom")
_FOUR_SIDES = re.compile(r"\d{1,5},\d{1,5},\d{1,5},\d{1,5}")
_OF_PICTURES = {"task", "pictures", "image", "mask", "mask_image", "reference_image", "control"}
"""Fields of a record that tell of pictures, or would name some that are not here."""
_OPAQUE = 128
"""From this alpha on nothing is drawn anew, as `pipelines.pictures.masks` has it."""
_OPTIONS = {
    "mask_image": "--mask",
    "mask": "--mask",
    "outpaint": "--outpaint",
    "padding": "--outpaint",
    "paste_back": "--paste-back",
    "strength": "--strength",
}
"""By field of a request, what says the same at a command line."""


class CommandFailed(Exception):
    """What was asked cannot be done; the message has the words of the command line."""


class PictureRequest(NamedTuple):
    """Fields of a request, and the files that they stand for (`serve.api.pictures.uploads`)."""

    fields: dict[str, Any]
    uploads: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFiles:
    """The options of a command about pictures; `image_name` is what it calls the first one."""

    image: Path | None = None
    mask: Path | None = None
    outpaint: str | None = None
    strength: float | None = None
    paste_back: bool | None = None
    image_name: str = "--image"

    @property
    def has_area(self) -> bool:
        """Whether a part of the picture is to be drawn anew, and no more than that."""
        return self.mask is not None or self.outpaint is not None

    def read(self) -> PictureRequest:
        """What they mean to a request.

        Raises typer.BadParameter for options without the picture that they are about, and
        CommandFailed for a file that cannot be used.
        """
        self._check_has_image()
        fields: dict[str, Any] = {}
        uploads: dict[str, bytes] = {}
        if self.image is None:
            return PictureRequest(fields, uploads)
        image, image_head = _picture(self.image, self.image_name)
        fields["image"] = upload_of(image, uploads)
        if self.mask is not None:
            mask, mask_head = _picture(self.mask, "--mask")
            if mask_head.upright != image_head.upright:
                raise CommandFailed(
                    f"--mask: {self.mask} is {_size(mask_head)} pixels, and {self.image}"
                    f" {_size(image_head)}; give a mask as large as the picture"
                )
            fields[_mask_field(mask, mask_head)] = upload_of(mask, uploads)
        if self.outpaint is not None:
            fields["outpaint"] = _sides(self.outpaint)
        if self.strength is not None:
            fields["strength"] = self.strength
        if self.paste_back is not None:
            fields["paste_back"] = self.paste_back
        return PictureRequest(fields, uploads)

    def _check_has_image(self) -> None:
        given = {
            "--mask": self.mask,
            "--outpaint": self.outpaint,
            "--strength": self.strength,
            "--paste-back": self.paste_back,
        }
        for option, value in given.items():
            if value is not None and self.image is None:
                raise typer.BadParameter(f"{option} is about a picture: add --image and a file")

    @contextmanager
    def told_in_options(self) -> Generator[None]:
        """Refusals of fields become CommandFailed, which names the options instead."""
        try:
            yield
        except (SluiceError, ServerError) as error:
            raise CommandFailed(self.in_options(str(error))) from error

    def in_options(self, message: str) -> str:
        """`message`, which may tell of several fields, with options in their place."""
        names = _OPTIONS if self.image is None else {**_OPTIONS, "image": self.image_name}
        fields = "|".join(names)
        return re.sub(
            rf"(?:^|(?<=; ))({fields})(?=(?:\[\d+\])?: )", lambda found: names[found[1]], message
        )


def redrawn_fields(
    recorded: Mapping[str, object], uploads: Mapping[str, bytes], source: Path
) -> dict[str, object]:
    """The `recorded` fields of an image that was drawn from pictures as a request has them: without
    what tells of these, which must be among `uploads`.

    Raises CommandFailed, naming those that are not.
    """
    fields = {name: recorded[name] for name in recorded if name not in _OF_PICTURES}
    told = _told_pictures(recorded)
    digests = [each[name] for each in told for name in ("sha256", "mask_sha256") if name in each]
    given = {hashlib.sha256(data).hexdigest() for data in uploads.values()}
    if missing := [str(digest)[:12] for digest in dict.fromkeys(digests) if digest not in given]:
        raise CommandFailed(
            f"--from: {source} was drawn from pictures that are not in it; give the same files with"
            f" --image and --mask (SHA-256 {', '.join(missing)})"
        )
    for each in told:
        padding, background = each.get("padding"), each.get("background")
        if _are_numbers(padding, 4) and any(padding):
            fields["outpaint"] = dict(zip(_SIDES, padding, strict=True))
        if _are_numbers(background, 3):
            fields["background"] = "#{:02x}{:02x}{:02x}".format(*background)
    if not any(each.get("role") == PictureRole.MASK for each in told):
        fields.pop("paste_back", None)
    return fields


def _told_pictures(recorded: Mapping[str, object]) -> list[dict[str, Any]]:
    """Whatever a file says of them: it may be anybody's."""
    found = recorded.get("pictures")
    entries = cast("list[object]", found) if isinstance(found, list) else []
    return [cast("dict[str, Any]", each) for each in entries if isinstance(each, dict)]


def _are_numbers(value: object, count: int) -> TypeGuard[list[int]]:
    if not isinstance(value, list):
        return False
    entries = cast("list[object]", value)
    return len(entries) == count and all(type(each) is int for each in entries)


def _picture(path: Path, option: str) -> tuple[bytes, PictureHead]:
    """The file and its head."""
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no file" if path.exists() else "not there"
            raise CommandFailed(f"{option}: {path} is {what}; name a PNG, JPEG or WebP file")
        if (num_bytes := path.stat().st_size) > _MOST_BYTES:
            raise CommandFailed(
                f"{option}: {path} has {num_bytes} bytes; give one of at most {_MOST_BYTES}"
            )
        data = path.read_bytes()
        return data, read_head(data)
    except OSError as error:
        raise CommandFailed(
            f"{option}: {path} cannot be read: {error.strerror or error}; name one that can"
        ) from error
    except ValueError as error:
        raise CommandFailed(f"{option}: {path} {error}") from error


def _mask_field(data: bytes, head: PictureHead) -> str:
    """The field of a mask's meaning: OpenAI's, where something in it is transparent."""
    if not head.has_alpha:
        return "mask_image"
    from pipelines.pictures.reading import open_picture

    try:
        picture = open_picture(data, "--mask")
    except InvalidRequest as error:
        raise CommandFailed(error.message) from error
    if "A" not in picture.getbands():
        return "mask_image"
    lowest: Any = picture.getchannel("A").getextrema()[0]
    return "mask" if lowest < _OPAQUE else "mask_image"


def _sides(text: str) -> dict[str, int]:
    written = text.replace(" ", "")
    values = [int(each) for each in written.split(",")] if _FOUR_SIDES.fullmatch(written) else []
    if not any(values):
        raise typer.BadParameter(
            f"--outpaint: {text!r} must be pixels to add as LEFT,TOP,RIGHT,BOTTOM, such as 0,0,64,0"
        )
    return dict(zip(_SIDES, values, strict=True))


def _size(head: PictureHead) -> str:
    height, width = head.upright
    return f"{width}x{height}"
