"""The image classifier stage: a verdict on every image that was drawn.

What a verdict leads to is not decided here. Importing this module loads no model library; the
classifiers do, when they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipelines.contracts import SafetyVerdict
from pipelines.errors import ConfigurationError
from pipelines.stages.safety.safety_huggingface import HuggingFaceClassifier
from pipelines.stages.safety.safety_onnx import OpenNsfwClassifier
from pipelines.stages.safety.safety_scores import check_images

__all__ = [
    "HuggingFaceClassifier",
    "ImageClassifier",
    "NoClassifier",
    "OpenNsfwClassifier",
    "load_image_classifier",
]

KINDS = ("open_nsfw", "huggingface", "off")

CLASSIFIER_PARTS = (".",)
"""What of its folder the Hugging Face classifier reads: the files at the root."""


class ImageClassifier(Protocol):
    """Anything that judges images; those are flagged that score `threshold` or more."""

    threshold: float

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """One verdict for each image (H, W, 3) uint8 RGB, in order; sizes may differ.

        Raises ValueError for anything else, StageFailed when the model gives no number.
        """
        ...


class NoClassifier:
    """Classification switched off: never flags, and says so in its verdicts."""

    threshold = 1.0

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """A verdict of classifier "off", score 0, for each image."""
        check_images(images)
        verdict = SafetyVerdict(
            flagged=False, category="none", score=0.0, threshold=1.0, classifier="off"
        )
        return [verdict] * len(images)


def load_image_classifier(
    kind: str,
    *,
    source: str | None = None,
    threshold: float = 0.8,
    flagged_labels: Sequence[str] = (),
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 1,
) -> ImageClassifier:
    """The classifier called `kind`: "open_nsfw", "huggingface" or "off"; "-" may stand for "_".

    `source` (a folder), `flagged_labels`, `device` and `dtype` are the Hugging Face
    classifier's; `threads` is open_nsfw's, which always runs on the CPU. Raises ConfigurationError,
    and CheckpointError for weights that cannot be used.
    """
    name = kind.replace("-", "_")
    if name not in KINDS:
        raise ConfigurationError(f"classifier: {kind!r} is not one of {', '.join(KINDS)}")
    if name == "huggingface":
        if source is None:
            raise ConfigurationError(
                "source: the classifier huggingface needs one, the folder of its weights"
            )
        return HuggingFaceClassifier(source, device, dtype, flagged_labels, threshold)
    if source is not None or flagged_labels:
        raise ConfigurationError(
            f"source, flagged_labels: the classifier {name} has neither; leave them out, or set "
            "classifier to huggingface"
        )
    if name == "open_nsfw":
        return OpenNsfwClassifier(threshold=threshold, threads=threads)
    return NoClassifier()
