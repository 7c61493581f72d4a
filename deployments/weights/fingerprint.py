"""One SHA-256 of the files that a stage computes with: what a receipt calls its weights.

Reading 24 GB takes a core half a minute, so it is done once for each version of a file on a node,
in a thread of its own, and not where a manifest or the hub has told the hash already.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from deployments.options.stages import WeightsOptions
from deployments.weights.fetch import DEFAULT_CACHE, file_name, identity, locked
from deployments.weights.integrity import Digest, Expected, Record, digest_of
from deployments.weights.layout import files_of, listing
from pipelines.errors import CheckpointError

logger = logging.getLogger("ray.serve")

_SHA256 = "sha256"


def fingerprint(
    folder: Path, parts: Sequence[str], options: WeightsOptions = WeightsOptions()
) -> str:
    """SHA-256 over the sorted names and hashes of the files of `parts`: weights, configurations
    and tokenizers. The same wherever the folder is.

    Blocks while files are read. Raises CheckpointError and OSError for files that are gone.
    """
    cache = (options.cache_dir or DEFAULT_CACHE).expanduser()
    names = listing(folder)
    digests: dict[str, str] = {}
    for part in parts:
        digests |= _digests(folder, part, files_of(part, names, source=folder), cache)
    text = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()


class Fingerprint:
    """The fingerprint of a stage's files, read in the background from now on."""

    def __init__(
        self, folder: Path, parts: Sequence[str], options: WeightsOptions = WeightsOptions()
    ) -> None:
        self._future: Future[str | None] = Future()
        self._future.set_running_or_notify_cancel()  # a caller that leaves does not end it
        # A daemon: a replica that ends does not wait for files to be read.
        threading.Thread(
            target=self._read, args=(folder, parts, options), name="fingerprint", daemon=True
        ).start()

    async def value(self) -> str | None:
        """The fingerprint, once it is known; None if files could not be read."""
        if self._future.done():
            return self._future.result()
        return await asyncio.wrap_future(self._future)

    def wait(self) -> str | None:
        """As `value`, for threads: blocks until the files have been read."""
        return self._future.result()

    def _read(self, folder: Path, parts: Sequence[str], options: WeightsOptions) -> None:
        value = None
        try:
            value = fingerprint(folder, parts, options)
        except (CheckpointError, OSError) as error:
            logger.warning("%s: receipts will not tell the hash of its weights: %s", folder, error)
        finally:
            self._future.set_result(value)


def _digests(folder: Path, part: str, names: Sequence[str], cache: Path) -> dict[str, str]:
    """SHA-256 of each file, from what was checked or read before where it is unchanged."""
    place = Path(identity(folder)) / file_name(part)
    try:
        # Alone on this node: replicas that start together read each file once.
        with locked(cache / "locks/hashes" / place, f"{folder}: {part}"):
            record = Record(cache / "hashes" / place)
            checked = (folder / ".checked" / file_name(part), cache / "folders" / place)
            records = (record, *(Record(path) for path in checked))
            known = {name: _known(folder, name, records) for name in names}
            digests = {name: digest or _read(folder, name) for name, digest in known.items()}
            if None in known.values():
                files = {name: _expected(folder, name, digests[name]) for name in names}
                record.save(folder, files)
            return digests
    except OSError as error:  # no cache: a folder can be used without
        logger.info("%s: the hashes of its files are not kept: %s", folder, error)
        return {name: _read(folder, name) for name in names}


def _known(folder: Path, name: str, records: Sequence[Record]) -> str | None:
    found = (folder / name).stat()
    for record in records:
        expected = record.expected.get(name)
        if (
            expected is not None
            and expected.digest is not None
            and expected.digest.algorithm == _SHA256
            and expected.size == found.st_size
            and record.holds(name, expected, found.st_mtime_ns)
        ):
            return expected.digest.value
    return None


def _read(folder: Path, name: str) -> str:
    return digest_of(folder / name, _SHA256).value


def _expected(folder: Path, name: str, digest: str) -> Expected:
    return Expected((folder / name).stat().st_size, Digest(_SHA256, digest))
