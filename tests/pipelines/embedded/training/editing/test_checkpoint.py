"""A packed run is small, and a run that begins with it has the same weights and counts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import loop
from pipelines.embedded.training.editing import checkpoint, instructions, train, train_text
from pipelines.embedded.training.export import folder_bytes
from pipelines.embedded.training.flow import build_transformer
from pipelines.embedded.training.train_text import encode, load_encoders, save_encoders


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training leaves: here with encoders that know the words and a random transformer."""
    run = tmp_path_factory.mktemp("run")
    known = load_encoders(EMBEDDED_MODEL_DIR)
    save_encoders(train_text.extended(known, instructions.vocabulary()), run / "text")
    (run / "text" / "training.json").write_text('{"by_operation": {"recolour": [1, 1]}}')
    transformer = build_transformer()
    (run / "flow").mkdir()
    save_file(transformer.state_dict(), run / "flow" / loop.CHECKPOINT)
    state = {"seconds": 9, "samples": 50, "edits_seen": 20, "pictures": 4}
    (run / "flow" / "state.json").write_text(json.dumps(state))
    (run / "flow" / "before.json").write_text('{"samples": 7, "seconds": 60, "curve": []}')
    (run / "flow" / "curve.json").write_text('[{"samples": 50}]')
    return run


def test_a_run_goes_on_from_a_packed_one(run: Path, tmp_path: Path) -> None:
    checkpoint.pack(run, tmp_path / "packed")
    assert 4_000_000 < folder_bytes(tmp_path / "packed") < checkpoint.MAX_BYTES
    train.prepare(tmp_path / "packed", tmp_path / "again")  # which trains no encoder
    weights = load_file(run / "flow" / loop.CHECKPOINT)
    after = load_file(tmp_path / "again" / "flow" / "start.safetensors")
    for name, weight in weights.items():
        if "guidance_embedder" not in name:
            torch.testing.assert_close(after[name], weight, atol=1e-3, rtol=1e-3)
    state = json.loads((tmp_path / "again" / "flow" / "state.json").read_text())
    assert (state["samples"], state["edits_seen"]) == (50, 20)
    before = json.loads((tmp_path / "again" / "flow" / "before.json").read_text())
    assert before["samples"] == 7
    for one, other in zip(
        encode(load_encoders(run / "text"), ["swap it for a star"]),
        encode(load_encoders(tmp_path / "again" / "text"), ["swap it for a star"]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


def test_too_large_a_checkpoint_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        checkpoint.pack(run, tmp_path)
