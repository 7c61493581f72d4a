"""Weights in a local folder: nothing is copied, everything that can be checked is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from deployments.options.stages import WeightsOptions
from deployments.weights import integrity
from deployments.weights.fetch import fetch
from deployments.weights.layout import MANIFEST
from deployments.weights.manifest import write_manifest
from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.errors import CheckpointError
from pipelines.flux1.checkpoint import load_vae
from pipelines.flux1.family import DENOISER_PARTS, TEXT_PARTS, VAE_PARTS

VAE = "vae/diffusion_pytorch_model.safetensors"
TRANSFORMER = "transformer/diffusion_pytorch_model"


def complaint(source: Path, parts: tuple[str, ...], options: WeightsOptions) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(str(source), parts, options)
    assert caught.value.message.startswith(f"{source}: ")
    return caught.value.message


def damage(path: Path) -> None:
    """Change the last byte, and neither the size nor the header."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def split(model: Path) -> list[Path]:
    """Turn the transformer's weights into two shards with an index."""
    whole = model / f"{TRANSFORMER}.safetensors"
    weights = load_file(whole)
    whole.unlink()
    names = sorted(weights)
    shards = [model / f"{TRANSFORMER}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where: dict[str, str] = {}
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: weights[name] for name in part}, shard, metadata={"format": "pt"})
        where |= dict.fromkeys(part, shard.name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (model / f"{TRANSFORMER}.safetensors.index.json").write_text(json.dumps(index))
    return shards


def test_the_carried_model_is_used_where_it_is(options: WeightsOptions) -> None:
    for parts in (TEXT_PARTS, DENOISER_PARTS, VAE_PARTS):
        assert fetch(str(EMBEDDED_MODEL_DIR), parts, options) == EMBEDDED_MODEL_DIR
    assert options.cache_dir is not None
    assert not options.cache_dir.exists()


def test_no_folder(tmp_path: Path, options: WeightsOptions) -> None:
    assert "is no folder on this machine" in complaint(tmp_path / "none", VAE_PARTS, options)


def test_a_missing_part_is_named_and_others_do_not_matter(
    model: Path, options: WeightsOptions
) -> None:
    (model / "vae" / "config.json").unlink()
    for path in (model / "vae").iterdir():
        path.unlink()
    assert "vae is missing" in complaint(model, VAE_PARTS, options)
    fetch(str(model), TEXT_PARTS, options)


def test_no_model_index(model: Path, options: WeightsOptions) -> None:
    (model / "model_index.json").unlink()
    assert "model_index.json is missing" in complaint(model, VAE_PARTS, options)


def test_pickled_weights_are_named_and_not_read(model: Path, options: WeightsOptions) -> None:
    (model / VAE).unlink()
    said = complaint(model, VAE_PARTS, options)
    assert "the weights of vae are in vae/diffusion_pytorch_model.bin" in said
    assert "convert them to safetensors" in said


def test_no_weights_at_all(model: Path, options: WeightsOptions) -> None:
    (model / TRANSFORMER).with_suffix(".safetensors").unlink()
    assert "transformer is not complete" in complaint(model, DENOISER_PARTS, options)


@pytest.mark.parametrize("change", [-1, -5000, +1])
def test_a_file_of_another_length_than_its_header_says(
    model: Path, options: WeightsOptions, change: int
) -> None:
    content = (model / VAE).read_bytes()
    (model / VAE).write_bytes(content[:change] if change < 0 else content + bytes(change))
    said = complaint(model, VAE_PARTS, options)
    assert f"{VAE} is damaged: its {len(content) + change} bytes are not what its header" in said


def test_shards_are_found_through_their_index(model: Path, options: WeightsOptions) -> None:
    shards = split(model)
    fetch(str(model), DENOISER_PARTS, options)
    shards[1].unlink()
    said = complaint(model, DENOISER_PARTS, options)
    assert f"transformer/{shards[1].name} is missing, though" in said


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 1}'])
def test_an_index_that_is_none(model: Path, options: WeightsOptions, content: str) -> None:
    split(model)
    (model / f"{TRANSFORMER}.safetensors.index.json").write_text(content)
    assert "not an index of weights" in complaint(model, DENOISER_PARTS, options)


@pytest.mark.parametrize("name", ["../vae/x.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_shards_only(model: Path, options: WeightsOptions, name: str) -> None:
    split(model)
    index = {"weight_map": {"weight": name}}
    (model / f"{TRANSFORMER}.safetensors.index.json").write_text(json.dumps(index))
    assert "is no safetensors shard" in complaint(model, DENOISER_PARTS, options)


class TestManifest:
    @pytest.fixture
    def sealed(self, model: Path) -> Path:
        write_manifest(model)
        return model

    def test_it_has_what_a_stage_may_read(self, sealed: Path) -> None:
        files = json.loads((sealed / MANIFEST).read_text())["files"]
        assert {VAE, "vae/config.json", "tokenizer_2/tokenizer.json"} <= files.keys()
        assert not any(path.endswith((".bin", ".py", ".md")) or "fp16" in path for path in files)
        assert files[VAE]["size"] == (sealed / VAE).stat().st_size
        assert MANIFEST not in files

    def test_it_is_written_again_over_itself(self, sealed: Path) -> None:
        before = (sealed / MANIFEST).read_bytes()
        write_manifest(sealed)
        assert (sealed / MANIFEST).read_bytes() == before

    def test_nothing_to_write_of(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"has no \*\.safetensors"):
            write_manifest(tmp_path)

    def test_a_changed_byte_is_found(self, sealed: Path, options: WeightsOptions) -> None:
        fetch(str(sealed), VAE_PARTS, options)
        damage(sealed / VAE)
        said = complaint(sealed, VAE_PARTS, options)
        assert f"{VAE} is damaged: expected sha256 " in said
        assert said.endswith("copy it anew")

    def test_what_is_unchanged_is_hashed_once(
        self, sealed: Path, options: WeightsOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed: list[str] = []
        digest_of = integrity.digest_of

        def counting(path: Path, algorithm: str) -> integrity.Digest:
            hashed.append(path.name)
            return digest_of(path, algorithm)

        monkeypatch.setattr(integrity, "digest_of", counting)
        for _ in range(3):
            fetch(str(sealed), VAE_PARTS, options)
        once = ["config.json", "diffusion_pytorch_model.safetensors", "model_index.json"]
        assert sorted(hashed) == once
        os.utime(sealed / VAE)
        fetch(str(sealed), VAE_PARTS, options)
        assert sorted(hashed) == sorted([*once, Path(VAE).name])

    def test_another_length_is_found_at_the_same_time_of_change(
        self, sealed: Path, options: WeightsOptions
    ) -> None:
        fetch(str(sealed), VAE_PARTS, options)
        config = sealed / "vae/config.json"
        then = config.stat()
        config.write_bytes(config.read_bytes() + b" ")
        os.utime(config, ns=(then.st_atime_ns, then.st_mtime_ns))
        said = complaint(sealed, VAE_PARTS, options)
        assert f"config.json is damaged: expected {then.st_size} bytes, found" in said

    def test_a_record_that_is_none_means_that_nothing_was_checked(
        self, sealed: Path, options: WeightsOptions
    ) -> None:
        fetch(str(sealed), VAE_PARTS, options)
        assert options.cache_dir is not None
        (record,) = options.cache_dir.glob("folders/*/vae")
        for content in ("", "{", "[1]", '{"a": 1}'):
            record.write_text(content)
            fetch(str(sealed), VAE_PARTS, options)
        damage(sealed / VAE)
        record.write_text("{")
        assert VAE in complaint(sealed, VAE_PARTS, options)

    def test_a_file_that_it_does_not_have(self, sealed: Path, options: WeightsOptions) -> None:
        (sealed / "vae/other.json").write_text("{}")
        assert f"vae/other.json is not in {MANIFEST}" in complaint(sealed, VAE_PARTS, options)

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"files": {"vae/config.json": {"size": 1, "sha256": "x"}}}']
    )
    def test_a_manifest_that_is_none(
        self, sealed: Path, options: WeightsOptions, content: str
    ) -> None:
        (sealed / MANIFEST).write_text(content)
        assert f"{MANIFEST} is damaged" in complaint(sealed, VAE_PARTS, options)


def test_what_is_checked_can_be_loaded(model: Path, options: WeightsOptions) -> None:
    folder = fetch(str(model), VAE_PARTS, options)
    assert load_vae(str(folder), device="cpu", dtype="float32").config.latent_channels == 16
