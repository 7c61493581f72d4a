"""The summary has what the benchmark reports, and edits only where the model makes them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import evaluate, world
from pipelines.embedded.training.editing import evaluate as editing
from pipelines.embedded.training.editing.score import make_exam

FIDELITY = {"iou_median_64", "iou_p10_64"}


@pytest.fixture(scope="module")
def editing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The carried model, said to edit."""
    folder = tmp_path_factory.mktemp("model") / "edits"
    shutil.copytree(EMBEDDED_MODEL_DIR, folder)
    defaults = json.loads((folder / "sluice.json").read_text())
    text = json.dumps(defaults | {"operations": ["recolour"]})
    (folder / "sluice.json").write_text(text)
    return folder


def test_a_model_that_does_not_edit_is_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "CANVASES", world.CANVASES[:1] * 5)  # 64x64 for 128x128 as well
    values = editing.summary(_without_operations(), n=1, given={"steps": 4})
    assert values.keys() == {"one_object", "two_objects", "n", *FIDELITY}
    assert values["n"] == 1
    assert 0.5 < values["iou_median_64"] <= 1


def test_edits_are_made_by_the_plain_pipeline(editing_model: Path) -> None:
    assert editing.edits_by_instruction(editing_model)
    pipeline = editing.load_editor(editing_model)
    question = evaluate.question_for(editing_model, steps=2, batch=2)
    edit = editing.editor(pipeline, question)
    exam = make_exam(pipeline.vae, 3)
    edited = edit(exam.before, exam.texts, 7)
    assert edited.shape == exam.before.shape
    assert 0 <= float(edited.min()) < float(edited.max()) <= 1
    # A picture's seed does not depend on which batch it is in.
    alone = edit(exam.before[2:], exam.texts[2:], 9)
    torch.testing.assert_close(edited[2:], alone, atol=1e-3, rtol=1e-3)
    assert (edited[:1] - edit(exam.before[:1], exam.texts[:1], 8)).abs().max() > 0.01


def test_an_evaluation_of_edits_has_a_chain(editing_model: Path) -> None:
    question = evaluate.question_for(editing_model, steps=1)
    found = editing.evaluate_edits(question, n=2)
    assert found.single.n == 2
    assert len(found.chain) == 5
    assert list(found.chain) == sorted(found.chain, reverse=True)


def _without_operations() -> Path:
    assert not editing.edits_by_instruction(EMBEDDED_MODEL_DIR)
    return EMBEDDED_MODEL_DIR
