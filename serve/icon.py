"""The icon of all pages: three spans of a waterfall."""

from __future__ import annotations

from importlib.resources import files
from urllib.parse import quote

MEDIA_TYPE = "image/svg+xml"

ICON = files("serve").joinpath("icon.svg").read_bytes().strip()


def data_url() -> str:
    """The icon itself as an address, so that a page asks for nothing."""
    return f"data:{MEDIA_TYPE},{quote(ICON.decode(), safe=' =:/')}"
