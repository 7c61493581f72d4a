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

MAX_TRACE_BYTES = 256 * 2**20
"""Before compression, which leaves about a twentieth."""

_EDGE = 4096
"""Bytes at either end of a trace, within which it says where it was written."""
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
                trace = path.read_bytes() if num_bytes <= MAX_TRACE_BYTES else None
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
        return _compressed(trace)


def _compressed(trace: bytes) -> bytes:
    """Without the host's name and path, which stand before and after all events."""
    view, edge = memoryview(trace), min(_EDGE, len(trace) // 2)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0, compresslevel=6) as file:
        file.write(_HOST.sub(b'"host_name": ""', trace[:edge]))
        file.write(view[edge : len(trace) - edge])
        file.write(_PATH.sub(b'"traceName": ""', trace[len(trace) - edge :]))
    return packed.getvalue()
