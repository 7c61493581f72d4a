"""Where finished files are kept: a local folder or an S3 bucket (`s3_storage.py`), behind one small
protocol.

File ids begin with 128 random bits, so knowing one is the permission to read it; they are checked
against a strict pattern before anything touches a disk or a bucket. An owner's files have ids that
tell whose they are to who knows the name, so that nothing else need be kept of it. Knows no image
formats beyond their content types, and nothing of HTTP. Calls block: keep them off the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from deployments.metrics import declared as metrics
from deployments.options.stages import StorageOptions
from pipelines.errors import FileNotStored, StageFailed

logger = logging.getLogger(__name__)

DEFAULT_DIRECTORY = Path("~/.cache/sluice/files")
DEFAULT_MAX_BYTES = 2 * 2**30

_RANDOM_BYTES, _OWNER_BYTES = 16, 8
_FILE_ID = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{16})?")
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_STALE_UPLOAD_S = 600.0
_SWEEP_INTERVAL_S = 60.0
_FILL_AFTER_SWEEP = 0.9
"""Share of the bound that a full folder is swept down to, or each later file would sweep again."""
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
"""What opening a link, a socket or a device that is not there ends in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """The bytes of a file and their content type."""

    data: bytes
    content_type: str


class FileStore(Protocol):
    """What finishers and the ingress need of a store."""

    def put(self, data: bytes, content_type: str, owner: str = "") -> str:
        """Keep `data` and return its new id, of a file of `owner`'s. Raises StageFailed if it
        cannot be kept."""
        ...

    def get(self, file_id: str) -> StoredFile:
        """The file. Raises FileNotStored if there is none (any more), StageFailed otherwise."""
        ...

    def delete(self, file_id: str) -> None:
        """Remove the file, if there is one. Raises StageFailed if that is not possible."""
        ...


def open_store(options: StorageOptions) -> FileStore:
    """The store that `options` describe. Nothing is read, made or connected yet."""
    if options.kind == "s3":
        from deployments.storage.s3 import S3Store

        assert options.bucket is not None  # StorageOptions has seen to it
        return S3Store(
            options.bucket,
            prefix=options.prefix,
            endpoint_url=options.endpoint_url,
            ttl_s=options.ttl_s,
        )
    return LocalStore(
        options.directory or DEFAULT_DIRECTORY,
        ttl_s=options.ttl_s,
        max_bytes=options.max_bytes or DEFAULT_MAX_BYTES,
    )


def new_file_id(owner: str = "") -> str:
    """128 random bits as 32 hexadecimal digits, and 16 more that tell `owner`, if there is one."""
    return id_of_owner(secrets.token_hex(_RANDOM_BYTES), owner)


def id_of_owner(drawn: str, owner: str) -> str:
    """The id of a file of `owner`'s that begins with the 32 digits `drawn`."""
    return drawn + _owner_tag(drawn, owner) if owner else drawn


def is_owned_by(file_id: str, owner: str) -> bool:
    """Whether `owner` may have the file drawn from: a file of nobody's is anybody's who knows it.

    Raises FileNotStored for what cannot be an id.
    """
    check_id(file_id)
    drawn, tag = file_id[: 2 * _RANDOM_BYTES], file_id[2 * _RANDOM_BYTES :]
    return not tag or secrets.compare_digest(tag, _owner_tag(drawn, owner))


def _owner_tag(drawn: str, owner: str) -> str:
    digest = hashlib.sha256(f"{drawn}/{owner}".encode("utf-8", "surrogatepass")).hexdigest()
    return digest[: 2 * _OWNER_BYTES]


class LocalStore:
    """Files in one folder, shared by every process of this machine that is given it.

    A `put` sweeps the folder once a minute, and whenever its own count passes `max_bytes`: it
    removes what is older than `ttl_s` seconds, and if that is not enough the oldest files. Between
    two sweeps it does not see what other processes store, so together they can pass `max_bytes` by
    what they store in that minute. `clock` is in seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = Path(directory).expanduser()
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._num_bytes = 0
        self._swept_at: float | None = None

    def put(self, data: bytes, content_type: str, owner: str = "") -> str:
        """Keep `data`; see `FileStore.put`. A reader never sees half a file."""
        file_id = new_file_id(owner)
        name = file_id + suffix_of(content_type)
        if len(data) > self._max_bytes:
            raise StageFailed(
                f"storage.max_bytes: {self._max_bytes} is less than one file of {len(data)} bytes",
                stage="storage",
            )
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(data))
            try:
                self._write(name, data)
            except OSError as error:
                if error.errno not in _DISK_IS_FULL or not self._evict(len(data)):
                    raise
                logger.warning("the disk of storage.directory is full: the oldest files have left")
                self._write(name, data)
        except OSError as error:
            logger.error("storage.directory %s cannot be used: %s", self._directory, error)
            why = ": its disk is full" if error.errno in _DISK_IS_FULL else ""
            raise StageFailed(f"a file could not be stored{why}", stage="storage") from error
        return file_id

    def _write(self, name: str, data: bytes) -> None:
        """A whole file, or none and OSError."""
        upload = self._directory / f".{name}.part"
        try:
            upload.write_bytes(data)
            os.utime(upload, (self._clock(), self._clock()))
            upload.replace(self._directory / name)
        except OSError:
            with contextlib.suppress(OSError):
                upload.unlink()
            raise

    def get(self, file_id: str) -> StoredFile:
        """The file; see `FileStore.get`."""
        check_id(file_id)
        try:
            for content_type, suffix in _SUFFIXES.items():
                path = self._directory / (file_id + suffix)
                with contextlib.suppress(FileNotFoundError), _open_regular(path) as file:
                    if self._is_expired(os.fstat(file.fileno()).st_mtime):
                        break
                    return StoredFile(data=file.read(), content_type=content_type)
        except OSError as error:
            logger.error("storage.directory %s cannot be used: %s", self._directory, error)
            raise StageFailed("a file could not be read", stage="storage") from error
        raise not_stored(file_id)

    def delete(self, file_id: str) -> None:
        """Remove the file; see `FileStore.delete`."""
        if not _FILE_ID.fullmatch(file_id):
            return
        try:
            for suffix in _SUFFIXES.values():
                (self._directory / (file_id + suffix)).unlink(missing_ok=True)
        except OSError as error:
            logger.error("storage.directory %s cannot be used: %s", self._directory, error)
            raise StageFailed("a file could not be deleted", stage="storage") from error

    def _evict(self, num_bytes: int) -> bool:
        """Remove files, the oldest first, until so many bytes are free; whether any were."""
        with self._lock:
            freed = 0
            for file in sorted(self._remove_expired(), key=lambda file: file.modified):
                if freed >= num_bytes:
                    break
                freed += file.num_bytes
                self._remove(file)
            self._swept_at = None  # what is in use is counted anew by the next
            return freed > 0

    def _make_room(self, num_bytes: int) -> None:
        """Count a file of `num_bytes` that is about to come, and sweep if it is time to."""
        with self._lock:
            self._num_bytes += num_bytes
            if self._num_bytes > self._max_bytes or self._is_sweep_due():
                self._num_bytes = self._sweep(num_bytes)
                self._swept_at = self._clock()

    def _is_sweep_due(self) -> bool:
        # A clock that was set back must not put the next sweep off.
        return self._swept_at is None or not 0 <= self._clock() - self._swept_at < _SWEEP_INTERVAL_S

    def _sweep(self, num_bytes: int) -> int:
        """Make room for `num_bytes` more; the bytes that are in use with them."""
        files = self._remove_expired()
        total = num_bytes + sum(file.num_bytes for file in files)
        if total <= self._max_bytes:
            return total
        for file in sorted(files, key=lambda file: file.modified):
            if total <= _FILL_AFTER_SWEEP * self._max_bytes:
                break
            self._remove(file)
            total -= file.num_bytes
        return total

    def _remove(self, file: _File) -> None:
        file.path.unlink(missing_ok=True)
        metrics.EVICTED_FILES.add()

    def _remove_expired(self) -> list[_File]:
        """Remove what is expired, and uploads that nobody finished; the files that stay."""
        kept: list[_File] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                # Another process may sweep the same folder, so a file can be gone any time.
                with contextlib.suppress(FileNotFoundError):
                    if not entry.is_file(follow_symlinks=False):
                        continue  # none of ours
                    found = entry.stat(follow_symlinks=False)
                    if _FILE_ID.fullmatch(Path(entry.name).stem):
                        if self._is_expired(found.st_mtime):
                            Path(entry.path).unlink()
                        else:
                            kept.append(_File(Path(entry.path), found.st_mtime, found.st_size))
                    elif self._is_abandoned(entry.name, found.st_mtime):
                        Path(entry.path).unlink()
        return kept

    def _is_abandoned(self, name: str, modified: float) -> bool:
        return name.endswith(".part") and self._clock() - modified > _STALE_UPLOAD_S

    def _is_expired(self, modified: float) -> bool:
        return self._clock() - modified > self._ttl_s


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, to be read. Raises FileNotFoundError for anything but a regular file.

    A link, a pipe, a device or a folder under a file's name was put there by somebody else: a link
    could lead anywhere, and to open a pipe could take for ever.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise FileNotFoundError(path) from error
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise FileNotFoundError(path)
    with open(opened, "rb") as file:
        yield file


class _File(NamedTuple):
    """One stored file as `LocalStore` sees it on disk."""

    path: Path
    modified: float
    num_bytes: int


def suffix_of(content_type: str) -> str:
    """What a file's name ends in. Raises ValueError for what is no image that is drawn here."""
    if content_type not in _SUFFIXES:
        raise ValueError(f"content type {content_type!r} is not one of {', '.join(_SUFFIXES)}")
    return _SUFFIXES[content_type]


def check_id(file_id: str) -> None:
    """Raises FileNotStored for what cannot be an id, before it touches a disk or a bucket."""
    if not _FILE_ID.fullmatch(file_id):
        raise not_stored(file_id)


def not_stored(file_id: str) -> FileNotStored:
    """The error for an id that is unknown, or whose file has expired."""
    return FileNotStored(
        f"no file {file_id[:64]!r} is stored here; files expire", file_id=file_id[:64]
    )
