"""The id of a request: the client's if it is sane, else a new one."""

from __future__ import annotations

import re
import uuid

HEADER = "x-request-id"

_SANE = re.compile(r"[\x21-\x7e]{1,128}")


def sane_request_id(given: str) -> str:
    """`given`, if it is up to 128 visible characters of ASCII; else a new one."""
    return given if _SANE.fullmatch(given) else f"req-{uuid.uuid4().hex}"
