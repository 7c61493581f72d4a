"""One hash of a stage's files: the same wherever they are, another for other weights."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from deployments.options.stages import WeightsOptions
from deployments.weights import fingerprint as module
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint, fingerprint
from deployments.weights.manifest import write_manifest
from pipelines.flux1.family import TEXT_PARTS, VAE_PARTS

VAE = "vae/diffusion_pytorch_model.safetensors"
CONFIG = "vae/config.json"
INDEX = "model_index.json"
NAMES = ["config.json", "diffusion_pytorch_model.safetensors", "model_index.json"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read for their hash."""
    names: list[str] = []
    digest_of = module.digest_of

    def recording(path: Path, algorithm: str) -> object:
        names.append(path.name)
        return digest_of(path, algorithm)

    monkeypatch.setattr(module, "digest_of", recording)
    return names


def test_it_is_of_names_and_hashes(model: Path, options: WeightsOptions):
    lines = "".join(
        f"{name} {hashlib.sha256((model / name).read_bytes()).hexdigest()}\n"
        for name in (INDEX, CONFIG, VAE)
    )
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprint(model, VAE_PARTS, options) == expected


def test_it_is_the_same_elsewhere_and_another_for_other_files(
    model: Path, options: WeightsOptions, tmp_path: Path
):
    first = {parts: fingerprint(model, parts, options) for parts in (TEXT_PARTS, VAE_PARTS)}
    assert len(set(first.values())) == 2
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    assert {parts: fingerprint(copy, parts, options) for parts in first} == first
    for name in (CONFIG, VAE):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b" ")
        assert fingerprint(copy, VAE_PARTS, options) != first[VAE_PARTS]
        (copy / name).write_bytes(content)
    (copy / "README.md").write_text("other")
    assert fingerprint(copy, VAE_PARTS, options) == first[VAE_PARTS]


def test_files_are_read_once_for_each_change(model: Path, options: WeightsOptions, read: list[str]):
    first = fingerprint(model, VAE_PARTS, options)
    assert sorted(read) == NAMES
    assert fingerprint(model, VAE_PARTS, options) == first
    assert len(read) == 3
    changed = (model / VAE).stat().st_mtime_ns + 1
    os.utime(model / VAE, ns=(changed, changed))
    assert fingerprint(model, VAE_PARTS, options) == first
    assert read[3:] == ["diffusion_pytorch_model.safetensors"]


def test_a_manifest_has_the_hashes_already(model: Path, options: WeightsOptions, read: list[str]):
    without = fingerprint(model, VAE_PARTS, options)
    shutil.rmtree(options.cache_dir or Path())
    write_manifest(model)
    fetch(str(model), VAE_PARTS, options)
    read.clear()
    assert fingerprint(model, VAE_PARTS, options) == without
    assert read == []


def test_a_cache_that_cannot_be_written_is_not_needed(
    model: Path, tmp_path: Path, options: WeightsOptions, read: list[str]
):
    (tmp_path / "file").touch()
    unusable = WeightsOptions(cache_dir=tmp_path / "file" / "cache")
    assert fingerprint(model, VAE_PARTS, unusable) == fingerprint(model, VAE_PARTS, options)


async def test_it_is_read_in_the_background(model: Path, options: WeightsOptions):
    known = Fingerprint(model, VAE_PARTS, options)
    value = await known.value()
    assert value == known.wait() == fingerprint(model, VAE_PARTS, options)
    assert await known.value() == value


async def test_files_that_are_gone_have_none(
    tmp_path: Path, options: WeightsOptions, caplog: pytest.LogCaptureFixture
):
    assert await Fingerprint(tmp_path, VAE_PARTS, options).value() is None
    assert "will not tell the hash of its weights" in caplog.text
