"""SafetyClassifier: a verdict on each finished image. What a verdict leads to is the graph's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deployments.lifecycle.boundary import Boundary, KeepAlive, starting
from deployments.metrics import declared as metrics
from deployments.options.autoscaling import reported_targets
from deployments.options.reconfigure import taken_over
from deployments.options.stages import SafetyOptions, WeightsOptions
from deployments.weights.fetch import fetch
from pipelines.batching.batcher import Batcher
from pipelines.contracts import DecodedImage, SafetyVerdict, ServiceTerms
from pipelines.tracing.open_spans import waited_and_ran


class SafetyClassifier(KeepAlive):
    """Ray Serve deployment over an image classifier."""

    def __init__(self, options: SafetyOptions, weights: WeightsOptions = WeightsOptions()) -> None:
        with starting("SafetyClassifier", options):
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
        self._options = options
        self._autoscaling = options.autoscaling
        self._boundary = Boundary("SafetyClassifier")
        self._batcher: Batcher[DecodedImage, SafetyVerdict] = Batcher(
            self._run,
            key=lambda image: None,
            max_batch_size=options.max_batch_size,
            name="safety-classifier",
        )

    async def classify(
        self, image: DecodedImage, terms: ServiceTerms = ServiceTerms()
    ) -> SafetyVerdict:
        """The verdict, in the order of `terms`; `timings` are "safety_wait" and "safety" alone.

        Raises StageFailed.
        """
        with self._boundary.call():
            verdict, waited, ran, size = await self._batcher.submit(image, terms)
            self._boundary.took(wait=waited, run=ran)
            metrics.CLASSIFIED_IMAGES.add(verdict="flagged" if verdict.flagged else "passed")
            spans = waited_and_ran(
                "safety", waited, ran, batch_size=size, replica=self._boundary.replica
            )
            return replace(verdict, timings={"safety_wait": waited, "safety": ran}, spans=spans)

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over what Serve's `user_config` says; see `deployments.options.reconfigure`."""
        if (options := taken_over(self._options, user_config)) is not None:
            self._autoscaling = options.autoscaling
            self._batcher.max_batch_size = options.max_batch_size
            self._classifier.threshold = options.threshold

    async def ready(self) -> bool:
        """True: the constructor returns only once the weights are loaded."""
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is told for scaling: a `Demand`, and the target wait."""
        return {**self._batcher.demand._asdict(), **reported_targets(self._autoscaling)}

    def check_health(self) -> None:
        """Raises StageFailed when classifying has stopped working."""
        self._boundary.has_to_do(self._batcher.demand)
        self._boundary.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()

    def _run(self, images: Sequence[DecodedImage]) -> Sequence[SafetyVerdict | Exception]:
        return self._classifier.classify([image.pixels for image in images])
