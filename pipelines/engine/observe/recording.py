"""Recording: ticks that torch's profiler saw, as a file for ui.perfetto.dev or chrome://tracing.

Names neither the host nor any of its folders, unless the profile has stacks.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from pipelines.errors import StageFailed

if TYPE_CHECKING:
    from torch.profiler import profile

logger = logging.getLogger(__name__)

MAX_TRACE_BYTES = 512 * 2**20
"""Before compression, which leaves less than a tenth."""

_EDGE = 4096
"""Bytes at either end of a trace, within which it says where it was written."""
_CHUNK = 2**20
_HOST = re.compile(rb'"host_name": "[^"]*"')
_PATH = re.compile(rb'"traceName": "[^"]*"')


class Recording(NamedTuple):
    """`ticks` ticks, in a profile that has been stopped."""

    profile: profile
    ticks: int

    def trace(self) -> bytes:
        """Chrome's trace format, JSON and gzip. Takes seconds where there are many operators.

        Raises StageFailed if it cannot be written, or would be larger than `MAX_TRACE_BYTES`.
        """
        try:
            with TemporaryDirectory(prefix="sluice-profile-") as folder:
                path = Path(folder, "trace.json")
                self.profile.export_chrome_trace(str(path))
                num_bytes = path.stat().st_size
                trace = _compressed(path, num_bytes) if num_bytes <= MAX_TRACE_BYTES else None
        except (
            Exception
        ) as error:  # whatever torch raises: a profile must not count as a sick stage
            logger.exception("a profile could not be written")
            raise StageFailed("the profile could not be written", stage="Denoiser") from error
        if trace is None:
            raise StageFailed(
                f"the profile of {self.ticks} ticks has {num_bytes >> 20} MiB, more than"
                f" {MAX_TRACE_BYTES >> 20}: profile fewer ticks",
                stage="Denoiser",
            )
        return trace


def _compressed(path: Path, num_bytes: int) -> bytes:
    """Without the host's name and path, which stand before and after all events."""
    edge = min(_EDGE, num_bytes // 2)
    packed = io.BytesIO()
    with (
        path.open("rb") as trace,
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0, compresslevel=6) as file,
    ):
        file.write(_HOST.sub(b'"host_name": ""', trace.read(edge)))
        left = num_bytes - 2 * edge
        while chunk := trace.read(min(left, _CHUNK)):
            file.write(chunk)
            left -= len(chunk)
        file.write(_PATH.sub(b'"traceName": ""', trace.read()))
    return packed.getvalue()
