"""Any Hugging Face image classifier as the safety stage's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.contracts import SafetyVerdict
from pipelines.errors import CheckpointError, ConfigurationError
from pipelines.self_contained import check_self_contained, offline
from pipelines.stages.safety.safety_scores import check_images, check_threshold, verdict

if TYPE_CHECKING:
    import torch


class HuggingFaceClassifier:
    """Scores images by the labels of a transformers classifier.

    The score is the probability that any of the flagged labels applies: their sum, or, of a model
    whose labels do not exclude each other, the greatest one. The category is the likeliest of them.
    """

    def __init__(
        self,
        source: str,
        device: str,
        dtype: str,
        flagged_labels: Sequence[str],
        threshold: float,
    ) -> None:
        """Loads the model in the folder `source`; nothing is downloaded.

        Only safetensors are read and no code of the checkpoint is run. Raises ConfigurationError
        for labels that the model does not have, CheckpointError for weights that cannot be used.
        """
        from pipelines.devices import resolve_device, resolve_dtype

        self.threshold = check_threshold(threshold)
        self._device = resolve_device(device)
        self._dtype = resolve_dtype(dtype)
        self._processor, model = _load(source, self._dtype)
        self._labels: dict[int, str] = {int(i): name for i, name in model.config.id2label.items()}
        self._flagged = _flagged_indices(self._labels, flagged_labels)
        self._multi_label = model.config.problem_type == "multi_label_classification"
        if len(self._labels) == 1 and not self._multi_label:
            raise CheckpointError(f"{source}: has one label, so its probability is always 1")
        self._model = model.to(self._device).eval().requires_grad_(False)

    def classify(self, images: Sequence[np.ndarray]) -> list[SafetyVerdict]:
        """As `ImageClassifier`; each image is resized by the model's own processor."""
        check_images(images)
        if not images:
            return []
        flagged = self._probabilities(images)[:, self._flagged]
        scores = flagged.amax(dim=1) if self._multi_label else flagged.sum(dim=1).clamp(max=1.0)
        return [
            verdict(
                score,
                category=self._labels[self._flagged[likeliest]],
                threshold=self.threshold,
                classifier="huggingface",
            )
            for score, likeliest in zip(
                scores.tolist(), flagged.argmax(dim=1).tolist(), strict=True
            )
        ]

    def _probabilities(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Probability of every label for every image, (N, labels) float32."""
        import torch

        inputs = self._processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last"
        )
        pixel_values = inputs["pixel_values"].to(self._device, self._dtype)
        with torch.inference_mode():
            logits = self._model(pixel_values=pixel_values).logits.float()
        return logits.sigmoid() if self._multi_label else logits.softmax(dim=1)


def _load(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The processor and the model at `source`, their many ways to fail turned into one."""
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    if not any(Path(source).glob("*.safetensors")):
        raise CheckpointError(
            f"{source}: has no *.safetensors; pickled weights are not read, convert them"
        )
    check_self_contained(Path(source), source=source)
    try:
        with offline():
            # The PIL back end gives the same pixels whether or not torchvision is installed.
            processor = AutoImageProcessor.from_pretrained(
                source, local_files_only=True, trust_remote_code=False, backend="pil"
            )
            model, report = AutoModelForImageClassification.from_pretrained(
                source,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(
            f"{source}: cannot be loaded as an image classifier: {error}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{source}: lacks the weights {', '.join(missing[:3])}; a classifier would be random"
        )
    return processor, model


def _flagged_indices(labels: dict[int, str], flagged: Sequence[str]) -> list[int]:
    known = ", ".join(labels.values())
    if not flagged:
        raise ConfigurationError(f"flagged_labels: name at least one of the model's: {known}")
    if unknown := [name for name in flagged if name not in labels.values()]:
        raise ConfigurationError(
            f"flagged_labels: the model has no label {', '.join(unknown)}; it has: {known}"
        )
    return [index for index, name in labels.items() if name in flagged]
