"""The names of the deployments: constants, because configurations and dashboards use them."""

from __future__ import annotations

from enum import StrEnum

INGRESS_NAME = "Ingress"


class StageName(StrEnum):
    """A stage's deployment name; its member name in lower case is its key in `StagesConfig`."""

    TEXT_ENCODER = "TextEncoder"
    IMAGE_ENCODER = "ImageEncoder"
    DENOISER = "Denoiser"
    VAE_DECODER = "VaeDecoder"
    SAFETY = "SafetyClassifier"
    FINISHER = "Finisher"
    FUSED = "Fused"

    @property
    def key(self) -> str:
        """The stage's key in `StagesConfig`, `StageHandles` and `bind_stages`."""
        return self.name.lower()
