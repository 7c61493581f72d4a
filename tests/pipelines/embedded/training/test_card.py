"""A card of a model that edits has its edits and outlines, and the curve that was kept of it."""

import json
import shutil
from pathlib import Path

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import card

ROW = {
    "seconds": 600,
    "samples": 4000,
    "edits": 0.5,
    "untouched_error": 0.0123,
    "64x64 right": 1.0,
    "64x64 iou_median": 0.9512,
    "128x128 right": 0.75,
    "128x128 iou_median": 0.9345,
}


def test_a_model_that_edits_has_a_card_that_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL_DIR, folder)
    training = json.loads((folder / "training.json").read_text())
    flow = {"samples": 4000, "seconds": 600, "curve": [ROW], "before": training["flow"]}
    decoder = {"images": 900, "seconds": 120}
    (folder / "training.json").write_text(json.dumps(training | {"flow": flow, "decoder": decoder}))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    single = {"edits": 0.91, "one": 0.97, "two": 0.85, "by_operation": {"move": 0.88}, "n": 300}
    evaluation["edits"] = {"single": single, "chain": [0.9, 0.8, 0.7, 0.6, 0.5]}
    evaluation["fidelity"] = {"64x64": {"iou_median": 0.977, "iou_p10": 0.951, "smear": 0, "n": 9}}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    text = card.card(folder)
    for line in (
        "| all | 91.0% |",
        "| move | 88.0% |",
        "90%, 80%, 70%, 60%, 50%.",
        "| 64x64 | 0.977 | 0.951 | 0.00% | 9 |",
        "| 10 | 4,000 | 50% | 0.012 | 100% | 0.951 | 75% | 0.934 |",
        "| transformer: flow matching, an earlier run | 43 | 628,142 |",
        "| decoder, after the transformer | 2 | 900 |",
    ):
        assert line in text, line
    assert "## Edits" not in card.card(EMBEDDED_MODEL_DIR)
