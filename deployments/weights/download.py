"""One file from a remote to a disk: continued where it broke off, checked, then given its name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from deployments.weights.integrity import Expected, difference
from pipelines.errors import CheckpointError

logger = logging.getLogger("ray.serve")

MAX_FAILURES = 5
"""Attempts in a row that bring nothing, after which a file is given up."""
RETRY_PAUSE_S = 1.0
"""Before the second attempt; doubled before each further one."""


class Interrupted(Exception):
    """A transfer broke off for a reason that may pass; it can go on from where it was."""


class Stream(NamedTuple):
    """The bytes of a file from `start` on, which is 0 where a server knows no ranges."""

    start: int
    chunks: Iterator[bytes]


class Remote(Protocol):
    """A place that weights are fetched from."""

    @property
    def name(self) -> str:
        """The source, for messages."""
        ...

    def key(self) -> PurePosixPath:
        """The folder of the cache for exactly this content; other content has another."""
        ...

    def paths(self) -> Sequence[str]:
        """The relative paths of all files."""
        ...

    def expect(self, path: str) -> Expected:
        """What the file must be. Raises CheckpointError if that cannot be known."""
        ...

    def read(self, path: str, start: int) -> AbstractContextManager[Stream]:
        """The file from byte `start` on. Raises CheckpointError, Interrupted."""
        ...


def begun(target: Path) -> int:
    """The bytes of `target` that an earlier attempt has left."""
    part = _part(target)
    return part.stat().st_size if part.exists() else 0


def download(remote: Remote, path: str, expected: Expected, target: Path) -> None:
    """Fetch the file to `target`, which is whole and as expected or not there at all.

    Until then it is `target`.part, which outlives this process. Raises CheckpointError.
    """
    part = _part(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    was_begun = part.exists()
    began = time.monotonic()
    _receive(remote, path, expected.size, part)
    problem = difference(part, expected)
    if problem is not None and was_begun:
        logger.warning("%s: %s: what an earlier start left is damaged; anew", remote.name, path)
        part.unlink()
        _receive(remote, path, expected.size, part)
        problem = difference(part, expected)
    if problem is not None:
        part.unlink()
        raise CheckpointError(
            f"{remote.name}: {path} arrived damaged: {problem}; if it happens again, it is damaged"
            " where it comes from: put it there anew"
        )
    part.replace(target)
    _sync_folder(target.parent)
    seconds = time.monotonic() - began
    logger.info("%s: fetched %s, %d bytes in %.1f s", remote.name, path, expected.size, seconds)


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _receive(remote: Remote, path: str, size: int, part: Path) -> None:
    """Append to `part` until it has `size` bytes, and have them on the disk."""
    failures = 0
    with part.open("ab") as file:
        while (start := file.seek(0, os.SEEK_END)) < size:
            problem = "it ended early"
            try:
                with remote.read(path, start) as stream:
                    file.truncate(stream.start)
                    for chunk in stream.chunks:
                        file.write(chunk)
            except Interrupted as error:
                problem = str(error)
            reached = file.seek(0, os.SEEK_END)
            if reached >= size:
                break
            failures = 0 if reached > start else failures + 1
            if failures == MAX_FAILURES:
                raise CheckpointError(
                    f"{remote.name}: {path} could not be fetched: {problem}; the next start goes on"
                    f" from byte {reached} of {size}"
                )
            logger.warning("%s: %s broke off at byte %d: %s", remote.name, path, reached, problem)
            time.sleep(RETRY_PAUSE_S * 2**failures)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
