"""Where finished files are kept: a local folder or an S3 bucket, behind one small protocol.

File ids are 128 random bits, so knowing one is the permission to read it; they are checked
against a strict pattern before anything touches a disk or a bucket. Knows no image formats beyond
their content types, and nothing of HTTP. Calls block: keep them off the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from deployments.metrics import declared as metrics
from deployments.options.stages import StorageOptions
from pipelines.errors import FileNotStored, StageFailed

logger = logging.getLogger(__name__)

DEFAULT_DIRECTORY = Path("~/.cache/sluice/files")
DEFAULT_MAX_BYTES = 2 * 2**30

_FILE_ID = re.compile(r"[0-9a-f]{32}")
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_STALE_UPLOAD_S = 600.0
_SWEEP_INTERVAL_S = 60.0
_FILL_AFTER_SWEEP = 0.9
"""Share of the bound that a full folder is swept down to, or each later file would sweep again."""
_S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 3}}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """The bytes of a file and their content type."""

    data: bytes
    content_type: str


class FileStore(Protocol):
    """What finishers and the ingress need of a store."""

    def put(self, data: bytes, content_type: str) -> str:
        """Keep `data` and return its new id. Raises StageFailed if it cannot be kept."""
        ...

    def get(self, file_id: str) -> StoredFile:
        """The file. Raises FileNotStored if there is none (any more), StageFailed otherwise."""
        ...


def open_store(options: StorageOptions) -> FileStore:
    """The store that `options` describe. Nothing is read, made or connected yet."""
    if options.kind == "s3":
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


def new_file_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


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

    def put(self, data: bytes, content_type: str) -> str:
        """Keep `data`; see `FileStore.put`. A reader never sees half a file."""
        file_id = new_file_id()
        name = file_id + _suffix(content_type)
        if len(data) > self._max_bytes:
            raise StageFailed(
                f"storage.max_bytes: {self._max_bytes} is less than one file of {len(data)} bytes",
                stage="storage",
            )
        upload = self._directory / f".{name}.part"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(data))
            upload.write_bytes(data)
            os.utime(upload, (self._clock(), self._clock()))
            upload.replace(self._directory / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                upload.unlink()
            logger.error("storage.directory %s cannot be used: %s", self._directory, error)
            raise StageFailed("a file could not be stored", stage="storage") from error
        return file_id

    def get(self, file_id: str) -> StoredFile:
        """The file; see `FileStore.get`."""
        _check_id(file_id)
        for content_type, suffix in _SUFFIXES.items():
            path = self._directory / (file_id + suffix)
            with contextlib.suppress(FileNotFoundError):
                if self._is_expired(path.stat().st_mtime):
                    break
                return StoredFile(data=path.read_bytes(), content_type=content_type)
        raise _not_stored(file_id)

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
            file.path.unlink(missing_ok=True)
            metrics.EVICTED_FILES.add()
            total -= file.num_bytes
        return total

    def _remove_expired(self) -> list[_File]:
        """Remove what is expired, and uploads that nobody finished; the files that stay."""
        kept: list[_File] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                # Another process may sweep the same folder, so a file can be gone any time.
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    if _FILE_ID.fullmatch(Path(entry.name).stem):
                        if self._is_expired(stat.st_mtime):
                            Path(entry.path).unlink()
                        else:
                            kept.append(_File(Path(entry.path), stat.st_mtime, stat.st_size))
                    elif self._is_abandoned(entry.name, stat.st_mtime):
                        Path(entry.path).unlink()
        return kept

    def _is_abandoned(self, name: str, modified: float) -> bool:
        return name.endswith(".part") and self._clock() - modified > _STALE_UPLOAD_S

    def _is_expired(self, modified: float) -> bool:
        return self._clock() - modified > self._ttl_s


class _File(NamedTuple):
    """One stored file as `LocalStore` sees it on disk."""

    path: Path
    modified: float
    num_bytes: int


class S3Store:
    """Objects `prefix` + id in a bucket, of AWS or of any S3-compatible server.

    Credentials come from boto3's usual places. `get` refuses what is older than `ttl_s` seconds;
    it is a lifecycle rule of the bucket that frees the space.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._endpoint_url = endpoint_url
        self._ttl_s = ttl_s
        self._clock = clock
        self._connected: Any = None

    def put(self, data: bytes, content_type: str) -> str:
        """Keep `data`; see `FileStore.put`."""
        _suffix(content_type)
        file_id = new_file_id()
        with _s3_errors():
            self._client().put_object(
                Bucket=self._bucket, Key=self._key(file_id), Body=data, ContentType=content_type
            )
        return file_id

    def get(self, file_id: str) -> StoredFile:
        """The file; see `FileStore.get`."""
        _check_id(file_id)
        client = self._client()
        with _s3_errors():
            try:
                found = client.get_object(Bucket=self._bucket, Key=self._key(file_id))
            except client.exceptions.NoSuchKey:
                raise _not_stored(file_id) from None
            if self._clock() - found["LastModified"].timestamp() > self._ttl_s:
                raise _not_stored(file_id)
            return StoredFile(data=found["Body"].read(), content_type=found["ContentType"])

    def _client(self) -> Any:
        """Made at first use, so that building an application needs neither boto3 nor a network."""
        if self._connected is None:
            import boto3
            from botocore.config import Config

            self._connected = boto3.client(
                "s3", endpoint_url=self._endpoint_url, config=Config(**_S3_TIMEOUTS)
            )
        return self._connected

    def _key(self, file_id: str) -> str:
        return self._prefix + file_id


@contextlib.contextmanager
def _s3_errors() -> Iterator[None]:
    """Turn what boto3 raises into StageFailed; names of buckets and hosts stay in the log."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        logger.error("the bucket of storage.bucket cannot be used: %s", error)
        raise StageFailed("the file store cannot be used", stage="storage") from error


def _suffix(content_type: str) -> str:
    if content_type not in _SUFFIXES:
        raise ValueError(f"content type {content_type!r} is not one of {', '.join(_SUFFIXES)}")
    return _SUFFIXES[content_type]


def _check_id(file_id: str) -> None:
    if not _FILE_ID.fullmatch(file_id):
        raise _not_stored(file_id)


def _not_stored(file_id: str) -> FileNotStored:
    return FileNotStored(
        f"no file {file_id[:64]!r} is stored here; files expire", file_id=file_id[:64]
    )
