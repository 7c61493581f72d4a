from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from deployments.options.stages import SafetyOptions
from deployments.stages.safety import SafetyClassifier
from pipelines.contracts import DecodedImage
from pipelines.errors import CheckpointError, StageFailed
from tests.deployments.fakes import FakeClassifier


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClassifier:
    classifier = FakeClassifier(flag_from=128.0)
    asked: dict[str, Any] = {}

    def load(kind: str, **options: Any) -> FakeClassifier:
        asked.update(options, kind=kind)
        return classifier

    monkeypatch.setattr("pipelines.stages.safety.safety.load_image_classifier", load)
    monkeypatch.setattr(classifier, "asked", asked, raising=False)
    return classifier


def _image(level: int, size: int = 8) -> DecodedImage:
    return DecodedImage(
        pixels=np.full((size, size, 3), level, dtype=np.uint8), timings={"decode": 1.0}
    )


async def test_verdicts_with_their_own_timings_only(fake: FakeClassifier) -> None:
    classifier = SafetyClassifier(SafetyOptions())
    verdict = await classifier.classify(_image(200))
    assert verdict.flagged
    assert not (await classifier.classify(_image(50))).flagged
    assert verdict.timings.keys() == {"safety_wait", "safety"}
    assert await classifier.ready()
    classifier.check_health()


async def test_images_of_any_size_are_classified_together(fake: FakeClassifier) -> None:
    classifier = SafetyClassifier(SafetyOptions(max_batch_size=4))
    await asyncio.gather(*(classifier.classify(_image(10, size)) for size in (8, 9, 10)))
    assert fake.batches == [3]


async def test_a_broken_classifier_is_a_failure_and_never_a_pass(
    fake: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = SafetyClassifier(SafetyOptions())

    def fail(images: object) -> None:
        raise RuntimeError("no session")

    monkeypatch.setattr(fake, "classify", fail)
    with pytest.raises(StageFailed) as caught:
        await classifier.classify(_image(1))
    assert caught.value.stage == "SafetyClassifier"


def test_a_classifier_without_weights_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    options = SafetyOptions(
        classifier="huggingface", source=str(tmp_path), flagged_labels=("nsfw",)
    )
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, and pickles are never read"):
        SafetyClassifier(options)


def test_options_reach_the_classifier(fake: FakeClassifier, tmp_path: Path) -> None:
    save_file({"weight": np.zeros(1)}, tmp_path / "model.safetensors")
    SafetyClassifier(
        SafetyOptions(
            classifier="huggingface",
            source=str(tmp_path),
            threshold=0.25,
            num_threads=2,
            flagged_labels=("nsfw",),
        )
    )
    asked = vars(fake)["asked"]
    assert asked["threshold"] == 0.25
    assert asked["threads"] == 2
    assert (asked["kind"], asked["source"]) == ("huggingface", str(tmp_path))
    assert asked["flagged_labels"] == ("nsfw",)
    assert (asked["device"], asked["dtype"]) == ("cpu", "float32")
