"""What the image classifiers share: checks of images and thresholds, and scores as verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipelines.contracts import SafetyVerdict
from pipelines.errors import ConfigurationError, StageFailed


def check_threshold(threshold: float) -> float:
    """`threshold` if it is in 0..1. Raises ConfigurationError."""
    if not 0.0 <= threshold <= 1.0:
        raise ConfigurationError(f"threshold: {threshold} is not in 0..1; 0.8 is usual")
    return threshold


def check_images(images: Sequence[np.ndarray]) -> None:
    """Raises ValueError unless every image is (H, W, 3) uint8 with pixels in it."""
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(
                f"image {i} is {image.dtype} {image.shape}; the classifier takes uint8 (H, W, 3)"
            )


def verdict(score: float, *, category: str, threshold: float, classifier: str) -> SafetyVerdict:
    """The verdict for `score`, flagged from `threshold` on.

    Raises StageFailed for a score that is no number: it would compare as safe.
    """
    if not math.isfinite(score):
        raise StageFailed(f"{classifier}: the score of an image is {score}", stage="safety")
    return SafetyVerdict(
        flagged=score >= threshold,
        category=category,
        score=score,
        threshold=threshold,
        classifier=classifier,
    )
