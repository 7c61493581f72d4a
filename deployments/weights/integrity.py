"""Files against the size and hash that they should have, and a record of what was checked.

Hashing 24 GB takes a slow core over a minute; a file whose size and time of change are those of
the record is not hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import CheckpointError

GIT_BLOB = "git-blob"
"""What the hub has of small files: SHA-1 over git's header and the content."""


class Digest(NamedTuple):
    """A hash as hexadecimal digits; `algorithm` is "sha256", "md5" or `GIT_BLOB`."""

    algorithm: str
    value: str


class Expected(NamedTuple):
    """What a file should be; without `digest`, only its size is known."""

    size: int
    digest: Digest | None


class Record:
    """What was checked, and the time of change (ns) that each file had then; kept as JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, tuple[Expected, int]] = {}
        try:
            files: dict[str, Any] = json.loads(path.read_bytes())
            for name, (size, digest, changed) in files.items():
                expected = Expected(int(size), Digest(*digest) if digest else None)
                self._files[name] = (expected, int(changed))
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, AttributeError):
            self._files = {}  # half written or another version's: then all is checked again

    @property
    def expected(self) -> dict[str, Expected]:
        """What the files were when they were checked; empty if none has been."""
        return {name: expected for name, (expected, _) in self._files.items()}

    def holds(self, name: str, expected: Expected, changed: int) -> bool:
        """Whether the file was found to be `expected`, and has not been changed since."""
        return self._files.get(name) == (expected, changed)

    def save(self, folder: Path, files: Mapping[str, Expected]) -> None:
        """Note that `files` of `folder` are as expected."""
        self._files = {
            name: (expected, (folder / name).stat().st_mtime_ns) for name, expected in files.items()
        }
        content = {name: (*expected, changed) for name, (expected, changed) in self._files.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replacement = self._path.with_name(self._path.name + ".part")
        replacement.write_text(json.dumps(content, indent=1), encoding="utf-8")
        replacement.replace(self._path)


def digest_of(path: Path, algorithm: str) -> Digest:
    """The file's hash."""
    with path.open("rb") as file:
        if algorithm == GIT_BLOB:
            size = os.fstat(file.fileno()).st_size
            header = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            return Digest(algorithm, hashlib.file_digest(file, lambda: header).hexdigest())
        return Digest(algorithm, hashlib.file_digest(file, algorithm).hexdigest())


def difference(path: Path, expected: Expected) -> str | None:
    """How the file differs from what is expected, or None."""
    size = path.stat().st_size
    if size != expected.size:
        return f"expected {expected.size} bytes, found {size}"
    if expected.digest is not None:
        found = digest_of(path, expected.digest.algorithm)
        if found != expected.digest:
            return (
                f"expected {expected.digest.algorithm} {expected.digest.value}, found {found.value}"
            )
    return None


def verify(
    folder: Path, files: Mapping[str, Expected], record: Record, *, source: object, mend: str
) -> bool:
    """Whether a file had to be looked into, because `record` did not have it as it is.

    Raises CheckpointError for one that is missing or damaged; `mend` says what to do about it.
    """
    looked = False
    for name, expected in files.items():
        try:
            found = (folder / name).stat()
            if found.st_size == expected.size and record.holds(name, expected, found.st_mtime_ns):
                continue
            looked = True
            problem = difference(folder / name, expected)
        except FileNotFoundError:
            raise CheckpointError(f"{source}: {folder / name} is missing; {mend}") from None
        if problem is None and expected.digest is None and name in record.expected:
            problem = "changed since it was fetched, and no hash is known"
        if problem is not None:
            raise CheckpointError(f"{source}: {folder / name} is damaged: {problem}; {mend}")
    return looked
