from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.options.stages import StorageOptions
from deployments.storage.s3 import S3Store
from deployments.storage.store import LocalStore, new_file_id, open_store
from pipelines.errors import FileNotStored, StageFailed


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def local(tmp_path: Path, clock: Clock) -> LocalStore:
    return LocalStore(tmp_path / "files", ttl_s=100.0, max_bytes=1000, clock=clock)


BAD_IDS = [
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 31,
    "a" * 33,
    "A" * 32,
    "g" * 32,
    "a" * 32 + ".png",
    "a" * 32 + "\n",
    "a" * 31 + "/",
    "\x00" * 32,
    "٣" * 32,
]


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/webp"])
def test_local_gives_back_what_was_put(local: LocalStore, content_type: str) -> None:
    file_id = local.put(b"data", content_type)
    stored = local.get(file_id)
    assert (stored.data, stored.content_type) == (b"data", content_type)


def test_ids_are_128_random_bits() -> None:
    ids = {new_file_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(bytes.fromhex(file_id)) == 16 for file_id in ids)


@pytest.mark.parametrize("file_id", BAD_IDS)
def test_ids_of_another_form_touch_nothing(tmp_path: Path, local: LocalStore, file_id: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / (file_id.replace("/", "").replace("\x00", "") + ".png")).write_bytes(b"x")
    with pytest.raises(FileNotStored):
        local.get(file_id)


def test_an_unknown_id_is_not_stored(local: LocalStore) -> None:
    with pytest.raises(FileNotStored) as caught:
        local.get("0" * 32)
    assert caught.value.file_id == "0" * 32


def test_a_file_expires_even_before_it_is_swept(local: LocalStore, clock: Clock) -> None:
    file_id = local.put(b"data", "image/png")
    clock.now += 99.0
    assert local.get(file_id).data == b"data"
    clock.now += 2.0
    with pytest.raises(FileNotStored):
        local.get(file_id)


def test_put_removes_what_is_expired(local: LocalStore, clock: Clock, tmp_path: Path) -> None:
    local.put(b"old", "image/png")
    clock.now += 101.0
    kept = local.put(b"new", "image/png")
    assert [path.stem for path in (tmp_path / "files").iterdir()] == [kept]


def test_the_oldest_leave_when_space_runs_out(local: LocalStore, clock: Clock) -> None:
    ids = []
    for _ in range(4):
        ids.append(local.put(b"x" * 300, "image/png"))
        clock.now += 1.0
    with pytest.raises(FileNotStored):
        local.get(ids[0])
    assert all(local.get(file_id) for file_id in ids[1:])


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are listed from now on."""
    scanned: list[Path] = []
    scandir = os.scandir

    def scan(folder: Path) -> Any:
        scanned.append(folder)
        return scandir(folder)

    monkeypatch.setattr("deployments.storage.store.os.scandir", scan)
    return scanned


def test_the_folder_is_listed_once_a_minute(
    local: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = count_scans(monkeypatch)
    for _ in range(12):
        local.put(b"x", "image/png")
        clock.now += 10.0
    assert len(scanned) == 2
    clock.now -= 10_000.0
    local.put(b"x", "image/png")
    assert len(scanned) == 3


def test_a_full_folder_is_not_listed_for_each_file(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scanned = count_scans(monkeypatch)
    for _ in range(300):
        local.put(b"x" * 10, "image/png")
    listed = len(scanned)
    # At first, when the 101st passes the bound, and from then on at every eleventh.
    assert listed == 2 + (300 - 101) // 11
    assert sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) <= 1000


def test_a_sweep_counts_what_others_have_stored(
    local: LocalStore, clock: Clock, tmp_path: Path
) -> None:
    local.put(b"x" * 400, "image/png")
    other = LocalStore(tmp_path / "files", ttl_s=100.0, max_bytes=1000, clock=clock)
    other.put(b"x" * 500, "image/png")
    clock.now += 61.0
    last = local.put(b"x" * 300, "image/png")
    assert local.get(last).data == b"x" * 300
    assert sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) <= 1000


def test_a_file_above_the_bound_is_refused(local: LocalStore) -> None:
    kept = local.put(b"x", "image/png")
    with pytest.raises(StageFailed, match=r"storage\.max_bytes") as caught:
        local.put(b"x" * 1001, "image/png")
    assert caught.value.stage == "storage"
    assert local.get(kept).data == b"x"


def test_an_abandoned_upload_is_swept(local: LocalStore, clock: Clock, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    stale = folder / f".{'a' * 32}.png.part"
    stale.write_bytes(b"half")
    clock.now = stale.stat().st_mtime + 1.0
    local.put(b"x", "image/png")
    assert stale.exists()
    clock.now += 3600.0
    local.put(b"x", "image/png")
    assert not stale.exists()


def test_other_files_in_the_folder_are_left_alone(
    local: LocalStore, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    other = tmp_path / "files" / "README.txt"
    other.write_bytes(b"mine" * 1000)
    clock.now = other.stat().st_mtime + 1_000_000.0
    local.put(b"x", "image/png")
    assert other.exists()


def test_the_folder_is_private(local: LocalStore, tmp_path: Path) -> None:
    local.put(b"x", "image/png")
    assert (tmp_path / "files").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_fails_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    store = LocalStore(tmp_path / "taken", ttl_s=1, max_bytes=1000)
    with pytest.raises(StageFailed) as caught:
        store.put(b"x", "image/png")
    assert str(tmp_path) not in caught.value.message


class FullDisk:
    """A disk that takes `room` bytes in the store's folder; what is more is written in part."""

    def __init__(self, folder: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._room = room
        self._write_bytes = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: self._write(path, data))

    def used(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def _write(self, path: Path, data: bytes) -> int:
        room = self._room - self.used()
        self._write_bytes(path, data[: max(0, room)])
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return len(data)


def test_on_a_full_disk_the_oldest_make_room(
    local: LocalStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(tmp_path / "files", 500, monkeypatch)
    ids: list[str] = []
    for _ in range(8):  # 800 bytes are within max_bytes, and more than there is
        clock.now += 1
        ids.append(local.put(bytes(100), "image/png"))
    assert disk.used() == 500
    for file_id in ids[:3]:
        with pytest.raises(FileNotStored):
            local.get(file_id)
    assert [len(local.get(file_id).data) for file_id in ids[3:]] == [100] * 5


def test_a_disk_filled_by_others_refuses_the_file_and_keeps_no_part_of_it(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(tmp_path / "files", 50, monkeypatch)
    with pytest.raises(StageFailed, match="could not be stored: its disk is full") as caught:
        local.put(bytes(100), "image/png")
    assert caught.value.stage == "storage"
    assert str(tmp_path) not in caught.value.message
    assert list((tmp_path / "files").iterdir()) == []


def test_only_regular_files_are_read(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put(b"x", "image/png")
    folder, secret = tmp_path / "files", tmp_path / "secret"
    secret.write_text("not for clients")
    made: dict[str, Callable[[Path], object]] = {
        "a" * 32: lambda path: path.symlink_to(secret),
        "b" * 32: lambda path: path.symlink_to("/dev/zero"),
        "c" * 32: os.mkfifo,
        "d" * 32: Path.mkdir,
        "e" * 32: lambda path: path.symlink_to(path),
    }
    for file_id, make in made.items():
        make(folder / f"{file_id}.png")
        with pytest.raises(FileNotStored):
            local.get(file_id)
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(folder)  # the name of a socket is short
        bound.bind("f" * 32 + ".png")
    with pytest.raises(FileNotStored):
        local.get("f" * 32)


def test_what_is_no_file_does_not_stop_the_sweep(
    local: LocalStore, clock: Clock, tmp_path: Path
) -> None:
    local.put(b"x", "image/png")
    (tmp_path / "files" / f"{'d' * 32}.png").mkdir()
    (tmp_path / "files" / f"{'a' * 32}.png").symlink_to("/nowhere")
    clock.now += 1000
    kept = local.put(b"y", "image/png")
    assert local.get(kept).data == b"y"
    assert sorted(path.name[0] for path in (tmp_path / "files").iterdir()) == sorted(
        [kept[0], "a", "d"]
    )


def test_a_deleted_file_is_gone_and_may_be_deleted_again(local: LocalStore) -> None:
    file_id, other = local.put(b"data", "image/png"), local.put(b"other", "image/png")
    for _ in range(2):
        local.delete(file_id)
        with pytest.raises(FileNotStored):
            local.get(file_id)
    assert local.get(other).data == b"other"


@pytest.mark.parametrize("file_id", BAD_IDS)
def test_deleting_touches_nothing_else(tmp_path: Path, local: LocalStore, file_id: str) -> None:
    local.put(b"data", "image/png")
    (tmp_path / "other.png").write_bytes(b"theirs")
    before = sorted(tmp_path.rglob("*"))
    local.delete(file_id)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_cannot_be_deleted(local: LocalStore, tmp_path: Path) -> None:
    file_id = new_file_id()
    (tmp_path / "files" / f"{file_id}.png").mkdir(parents=True)
    with pytest.raises(StageFailed, match="could not be deleted"):
        local.delete(file_id)


def test_an_unknown_content_type_is_refused(local: LocalStore) -> None:
    with pytest.raises(ValueError, match="text/html"):
        local.put(b"x", "text/html")


def test_several_writers_share_a_folder(tmp_path: Path, clock: Clock) -> None:
    stores = [LocalStore(tmp_path, ttl_s=100, max_bytes=5_000, clock=clock) for _ in range(4)]
    failures: list[Exception] = []

    def write(store: LocalStore) -> None:
        try:
            for _ in range(25):
                store.put(b"x" * 500, "image/png")
        except StageFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    clock.now += 61.0
    stores[0].put(b"x" * 500, "image/png")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5_000


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="images")
        yield client


def test_s3_gives_back_what_was_put(bucket: Any) -> None:
    store = S3Store("images", prefix="sluice/", ttl_s=100.0)
    file_id = store.put(b"data", "image/webp")
    stored = store.get(file_id)
    assert (stored.data, stored.content_type) == (b"data", "image/webp")
    assert bucket.head_object(Bucket="images", Key=f"sluice/{file_id}")["ContentLength"] == 4


@pytest.mark.parametrize("file_id", [*BAD_IDS, "0" * 32])
def test_s3_has_no_other_ids(bucket: Any, file_id: str) -> None:
    store = S3Store("images", prefix="sluice/", ttl_s=100.0)
    bucket.put_object(Bucket="images", Key="sluice/" + (file_id.strip("0") or "x"), Body=b"x")
    with pytest.raises(FileNotStored):
        store.get(file_id)


def test_s3_deletes(bucket: Any) -> None:
    store = S3Store("images", ttl_s=100.0)
    file_id = store.put(b"data", "image/png")
    for each in (file_id, file_id, "none"):
        store.delete(each)
    with pytest.raises(FileNotStored):
        store.get(file_id)


def test_s3_refuses_what_is_too_old(bucket: Any) -> None:
    import time

    clock = Clock(time.time())
    store = S3Store("images", ttl_s=100.0, clock=clock)
    file_id = store.put(b"data", "image/png")
    assert store.get(file_id).data == b"data"
    clock.now += 200.0
    with pytest.raises(FileNotStored):
        store.get(file_id)


def test_a_missing_bucket_is_the_stages_failure_and_stays_unnamed(bucket: Any) -> None:
    store = S3Store("secret-name", ttl_s=100.0)
    with pytest.raises(StageFailed) as caught:
        store.put(b"data", "image/png")
    assert caught.value.stage == "storage"
    assert "secret-name" not in caught.value.message
    with pytest.raises(StageFailed):
        store.get("0" * 32)


def test_options_choose_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(StorageOptions(directory=tmp_path)), LocalStore)
    assert isinstance(open_store(StorageOptions(kind="s3", bucket="b")), S3Store)
    assert not list(tmp_path.iterdir())
