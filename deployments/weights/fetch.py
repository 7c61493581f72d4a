"""From a source and the parts that a stage needs to a local folder, fetched once per node.

Replicas on a node share one folder of the cache, by commit or content, so that new weights never
replace files under those that run. A file lock for each part lets one process fetch it; the others
wait, and use it. What was fetched stays until somebody removes it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from deployments.options.stages import WeightsOptions
from deployments.options.weights_source import Folder, HubRevision, parse_source
from deployments.weights.download import Remote, begun, download
from deployments.weights.integrity import Expected, Record, verify
from deployments.weights.layout import MANIFEST, check_structure, files_of, listing
from deployments.weights.manifest import Manifest
from pipelines.errors import CheckpointError

logger = logging.getLogger("ray.serve")

DEFAULT_CACHE = Path("~/.cache/sluice/weights")

_FILES_AT_ONCE = 4


def fetch(source: str, parts: Sequence[str], options: WeightsOptions = WeightsOptions()) -> Path:
    """The folder that holds the `parts` of `source`, all of them whole and checked.

    Blocks while they come. Raises ConfigurationError for what is no source, and CheckpointError,
    naming the file, for what is missing, damaged or cannot be fetched.
    """
    place = parse_source(source)
    cache = (options.cache_dir or DEFAULT_CACHE).expanduser()
    try:
        if isinstance(place, Folder):
            _check_folder(place.path, parts, cache)
            return place.path
        if isinstance(place, HubRevision):
            from deployments.weights.hub import HubRemote

            return _fetch_remote(HubRemote(place), parts, cache)
        from deployments.weights.s3 import S3Remote

        remote = S3Remote(
            place, endpoint_url=options.endpoint_url, require_hashes=options.require_hashes
        )
        return _fetch_remote(remote, parts, cache)
    except OSError as error:
        raise CheckpointError(
            f"{source}: {error.filename or cache} cannot be used: {error.strerror or error};"
            f" stages.weights.cache_dir, where fetched weights are kept, is {cache}"
        ) from error


def _fetch_remote(remote: Remote, parts: Sequence[str], cache: Path) -> Path:
    key = remote.key()
    folder = cache / key
    for part in parts:
        name = file_name(part)
        with locked(cache / "locks" / key / name, f"{remote.name}: {part}"):
            record = Record(folder / ".checked" / name)
            files = record.expected
            if not files or any(expected.digest is None for expected in files.values()):
                paths = files_of(part, remote.paths(), source=remote.name)
                files = {path: remote.expect(path) for path in paths}
            here = {path: wanted for path, wanted in files.items() if (folder / path).exists()}
            missing = {path: wanted for path, wanted in files.items() if path not in here}
            mend = "remove it and start again, and it is fetched anew"
            changed = verify(folder, here, record, source=remote.name, mend=mend)
            if missing:
                _download(remote, missing, folder)
            if missing or changed:
                check_structure(folder, files, source=remote.name)
                record.save(folder, files)
    return folder


def _download(remote: Remote, files: Mapping[str, Expected], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    targets = {path: folder / path for path in files}
    needed = sum(expected.size - begun(targets[path]) for path, expected in files.items())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{remote.name}: needs {needed} bytes in stages.weights.cache_dir, and {folder} has"
            f" {free}; free some, or set it to a larger disk"
        )
    logger.info("%s: fetching %d files, %d bytes", remote.name, len(files), needed)

    def fetch_one(path: str) -> None:
        download(remote, path, files[path], targets[path])

    # At the first failure, what has not begun is left; what has goes on, and is kept.
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="weights") as pool:
        list(pool.map(fetch_one, files))


def _check_folder(folder: Path, parts: Sequence[str], cache: Path) -> None:
    """A folder has no hashes but a manifest's; without one, structure and sizes are checked."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is no folder on this machine; copy the weights to it")
    paths = listing(folder)
    manifest = None
    if MANIFEST in paths:
        manifest = Manifest((folder / MANIFEST).read_bytes(), source=folder)
    place = identity(folder)
    for part in parts:
        names = files_of(part, paths, source=folder)
        check_structure(folder, names, source=folder)
        if manifest is not None:
            files = {name: manifest[name] for name in names}
            name = file_name(part)
            with locked(cache / "locks/folders" / place / name, f"{folder}: {part}"):
                record = Record(cache / "folders" / place / name)
                if verify(folder, files, record, source=folder, mend="copy it anew"):
                    record.save(folder, files)


def identity(folder: Path) -> str:
    """The folder's own name below the cache."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]


def file_name(part: str) -> str:
    """The name below the cache of what is known of a part."""
    return "root" if part == "." else part


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Alone on this machine; the lock goes with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: waiting, as another process fetches or checks it", what)
        lock.acquire()
        logger.info("%s: the other process is done", what)
    try:
        yield
    finally:
        lock.release()
