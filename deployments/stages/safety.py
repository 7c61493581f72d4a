"""SafetyClassifier: a verdict on each finished image. What a verdict leads to is the graph's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployments.metrics import declared as metrics
from deployments.names import StageName
from deployments.options.stages import SafetyOptions, WeightsOptions
from deployments.stages.shim import BatchingShim
from deployments.weights.fetch import fetch
from pipelines.contracts import DecodedImage, SafetyVerdict, ServiceTerms


class SafetyClassifier(BatchingShim[SafetyOptions, DecodedImage, SafetyVerdict]):
    """Ray Serve deployment over an image classifier."""

    def __init__(self, options: SafetyOptions, weights: WeightsOptions = WeightsOptions()) -> None:
        super().__init__(StageName.SAFETY, options, phase="safety")
        with self._starting():
            from pipelines.stages.safety.safety import CLASSIFIER_PARTS, load_image_classifier

            source = options.source
            if source is not None:
                import torch

                source = str(fetch(source, CLASSIFIER_PARTS, weights))
                torch.set_num_threads(options.resolved_threads)
            self._classifier = load_image_classifier(
                options.classifier,
                source=source,
                threshold=options.threshold,
                flagged_labels=options.flagged_labels,
                device=options.resolved_device,
                dtype=options.dtype,
                threads=options.resolved_threads,
            )
        self._start_batching(self._run, key=lambda image: None)

    async def classify(
        self, image: DecodedImage, terms: ServiceTerms = ServiceTerms()
    ) -> SafetyVerdict:
        """The verdict, in the order of `terms`; `timings` are "safety_wait" and "safety" alone.

        Raises StageFailed.
        """
        with self._boundary.call():
            verdict, timings, spans = await self._submit(image, terms)
            metrics.CLASSIFIED_IMAGES.add(verdict="flagged" if verdict.flagged else "passed")
            return replace(verdict, timings=timings, spans=spans)

    def _take_over(self, options: SafetyOptions) -> None:
        super()._take_over(options)
        self._classifier.threshold = options.threshold

    def _run(self, images: Sequence[DecodedImage]) -> Sequence[SafetyVerdict | Exception]:
        return self._classifier.classify([image.pixels for image in images])
