"""Weights of the hub: fetched from a hub on a local port, which fails in every way that it can."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from deployments.options.stages import WeightsOptions
from deployments.weights.fetch import fetch
from pipelines.errors import CheckpointError
from pipelines.flux1.family import DENOISER_PARTS, TEXT_PARTS, VAE_PARTS
from tests.deployments.weights.fake_hub import COMMIT, REPOSITORY, FakeHub

PINNED = f"hf://{REPOSITORY}@{COMMIT}"
VAE_FILES = ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
WEIGHTS = VAE_FILES[-1]


def complaint(parts: tuple[str, ...], options: WeightsOptions, source: str = PINNED) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(source, parts, options)
    assert caught.value.message.startswith(f"{source}: ")
    assert "hf_secret" not in caught.value.message
    return caught.value.message


def files_in(folder: Path) -> list[str]:
    """What there is but for the records."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] != ".checked")


def test_only_what_a_stage_needs_is_fetched(
    hub: FakeHub, model: Path, options: WeightsOptions
) -> None:
    folder = fetch(PINNED, VAE_PARTS, options)
    assert files_in(folder) == hub.asked_for == VAE_FILES
    for path in VAE_FILES:
        assert (folder / path).read_bytes() == (model / path).read_bytes()
    assert fetch(PINNED, TEXT_PARTS, options) == folder
    assert "text_encoder_2/model.safetensors" in files_in(folder)
    assert not any(path.startswith(("transformer", "scheduler")) for path in files_in(folder))
    assert hub.asked_for.count("model_index.json") == 1
    assert hub.authorizations == {"Bearer hf_secret"}


def test_a_pinned_revision_that_is_here_needs_no_hub(hub: FakeHub, options: WeightsOptions) -> None:
    folder = fetch(PINNED, VAE_PARTS, options)
    requests, listings = len(hub.requests), hub.listings
    assert fetch(PINNED, VAE_PARTS, options) == folder
    assert (len(hub.requests), hub.listings) == (requests, listings)


def test_a_branch_is_said_to_move(
    hub: FakeHub, options: WeightsOptions, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        moving = fetch(f"hf://{REPOSITORY}@main", VAE_PARTS, options)
    assert f"hf://{REPOSITORY}@main may move" in caplog.text
    assert f"write {PINNED}" in caplog.text
    assert fetch(PINNED, VAE_PARTS, options) == moving


def test_a_connection_that_breaks_is_resumed(hub: FakeHub, options: WeightsOptions) -> None:
    hub.cuts[WEIGHTS] = [1000, 0, 500]
    folder = fetch(PINNED, VAE_PARTS, options)
    assert hub.ranges(WEIGHTS) == ["bytes=0-", "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert files_in(folder) == VAE_FILES


def test_a_server_without_ranges_begins_anew(hub: FakeHub, options: WeightsOptions) -> None:
    hub.knows_ranges = False
    hub.cuts[WEIGHTS] = [1000]
    assert files_in(fetch(PINNED, VAE_PARTS, options)) == VAE_FILES
    assert len(hub.ranges(WEIGHTS)) == 2


def test_it_is_given_up_with_what_came_and_the_next_start_goes_on(
    hub: FakeHub, options: WeightsOptions
) -> None:
    hub.cuts[WEIGHTS] = [1000, 0, 0, 0, 0, 0]
    said = complaint(VAE_PARTS, options)
    assert f"{WEIGHTS} could not be fetched" in said
    assert "goes on from byte 1000 of " in said
    assert options.cache_dir is not None
    assert not list(options.cache_dir.rglob("diffusion_pytorch_model.safetensors"))
    fetch(PINNED, VAE_PARTS, options)
    assert hub.ranges(WEIGHTS)[-1] == "bytes=1000-"


@pytest.mark.parametrize(
    ("path", "algorithm"), [(WEIGHTS, "sha256"), ("vae/config.json", "git-blob")]
)
def test_what_arrives_damaged_is_no_file(
    hub: FakeHub, options: WeightsOptions, path: str, algorithm: str
) -> None:
    hub.damaged = {path}
    said = complaint(VAE_PARTS, options)
    assert f"{path} arrived damaged: expected {algorithm} " in said
    assert options.cache_dir is not None
    assert not list(options.cache_dir.rglob(f"{Path(path).name}*"))
    hub.damaged = set()
    assert files_in(fetch(PINNED, VAE_PARTS, options)) == VAE_FILES


def test_a_damaged_beginning_of_an_earlier_start_is_fetched_anew(
    hub: FakeHub, options: WeightsOptions
) -> None:
    hub.cuts[WEIGHTS] = [1000, 0, 0, 0, 0, 0]
    complaint(VAE_PARTS, options)
    assert options.cache_dir is not None
    (part,) = options.cache_dir.rglob("*.part")
    part.write_bytes(bytes(1000))
    fetch(PINNED, VAE_PARTS, options)
    assert hub.ranges(WEIGHTS)[-2:] == ["bytes=1000-", "bytes=0-"]


@pytest.mark.parametrize("change", ["shorter", "other"])
def test_a_file_that_is_damaged_on_this_disk(
    hub: FakeHub, options: WeightsOptions, change: str
) -> None:
    path = fetch(PINNED, VAE_PARTS, options) / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[:-9] if change == "shorter" else content[:-1] + b"\x55")
    said = complaint(VAE_PARTS, options)
    assert f"{path} is damaged: expected " in said
    assert said.endswith("remove it and start again, and it is fetched anew")
    path.unlink()
    fetch(PINNED, VAE_PARTS, options)
    assert path.read_bytes() == content


def test_pickled_weights_are_neither_fetched_nor_accepted(
    hub: FakeHub, model: Path, options: WeightsOptions
) -> None:
    (model / WEIGHTS).unlink()
    said = complaint(VAE_PARTS, options)
    assert "the weights of vae are in vae/diffusion_pytorch_model.bin" in said
    assert hub.asked_for == ["model_index.json"]


def test_a_missing_part(hub: FakeHub, options: WeightsOptions) -> None:
    assert "controlnet is missing" in complaint(("controlnet",), options)


def test_a_disk_without_room(
    hub: FakeHub, options: WeightsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = complaint(VAE_PARTS, options)
    assert "bytes in stages.weights.cache_dir" in said
    assert not hub.requests


def test_a_cache_that_is_no_folder(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = complaint(VAE_PARTS, WeightsOptions(cache_dir=tmp_path / "file"))
    assert "stages.weights.cache_dir" in said


def test_a_licence_that_was_not_accepted(hub: FakeHub, options: WeightsOptions) -> None:
    hub.is_gated = True
    said = complaint(VAE_PARTS, options)
    assert f"accept the licence of {REPOSITORY} on the hub, and set HF_TOKEN" in said


def test_a_hub_that_is_away(
    hub: FakeHub, options: WeightsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached (ConnectError)" in complaint(VAE_PARTS, options)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "OfflineModeIsEnabled" in complaint(VAE_PARTS, options)


class Process:
    """A process of its own that fetches."""

    SCRIPT = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from deployments.options.stages import WeightsOptions\n"
        "from deployments.weights.fetch import fetch\n"
        "fetch(sys.argv[1], sys.argv[3:], WeightsOptions(cache_dir=Path(sys.argv[2])))\n"
    )

    def __init__(self, hub: FakeHub, options: WeightsOptions, parts: tuple[str, ...]) -> None:
        command = [sys.executable, "-c", self.SCRIPT, PINNED, str(options.cache_dir), *parts]
        self.popen = subprocess.Popen(
            command,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint},
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, text: str) -> None:
        """Read what it logs, up to a line that holds `text`."""
        assert self.popen.stderr is not None
        lines: list[str] = []
        for line in self.popen.stderr:
            lines.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}: {''.join(lines)}")

    def end(self) -> str:
        """What it logs until it has ended, which must be well."""
        _, said = self.popen.communicate(timeout=60)
        assert self.popen.returncode == 0, said
        return said


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Those of a test, none of which outlives it."""
    started: list[Process] = []
    yield started
    for process in started:
        process.popen.kill()
        process.popen.communicate()


def wait_until_asked(hub: FakeHub, path: str) -> None:
    while not hub.ranges(path):
        time.sleep(0.01)


def test_two_processes_at_once_fetch_once(
    hub: FakeHub, options: WeightsOptions, processes: list[Process]
) -> None:
    hub.cuts[WEIGHTS] = [1000]
    hub.may_send.clear()
    processes.append(Process(hub, options, VAE_PARTS))
    wait_until_asked(hub, WEIGHTS)
    processes.append(Process(hub, options, VAE_PARTS))
    processes[1].read_until(f"{PINNED}: vae: waiting, as another process fetches")
    # A third, which needs something else, does not wait for them.
    fetch(PINNED, DENOISER_PARTS, options)
    hub.may_send.set()
    assert f"fetched {WEIGHTS}" in processes[0].end()
    assert "fetched" not in processes[1].end()
    assert hub.ranges(WEIGHTS) == ["bytes=0-", "bytes=1000-"]
    assert hub.asked_for.count("vae/config.json") == 1


def test_a_process_that_was_killed_is_taken_over_where_it_was(
    hub: FakeHub, model: Path, options: WeightsOptions, processes: list[Process]
) -> None:
    # More than a file's buffer holds, so that some of it is on the disk.
    hub.cuts[WEIGHTS] = [100_000]
    hub.may_send.clear()
    processes.append(Process(hub, options, VAE_PARTS))
    assert options.cache_dir is not None
    while not any(path.stat().st_size for path in options.cache_dir.rglob("diffusion*.part")):
        time.sleep(0.01)
    processes[0].popen.kill()
    processes[0].popen.wait()
    (part,) = options.cache_dir.rglob("diffusion*.part")
    reached = part.stat().st_size
    assert 0 < reached <= 100_000
    hub.may_send.set()
    folder = fetch(PINNED, VAE_PARTS, options)
    assert hub.ranges(WEIGHTS) == ["bytes=0-", f"bytes={reached}-"]
    assert (folder / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert not part.exists()
