"""The carried model: where its folder lies. How it was made is in the modules beside it.

Importing this package loads nothing heavy: no torch, no diffusers.
"""

from pathlib import Path

EMBEDDED_MODEL_NAME = "sluice-shapes"
"""Name of the carried model in the catalogue."""

EMBEDDED_MODEL_VERSION = "1.0"
"""Version of the carried weights; it changes whenever a picture for a given seed would."""

EMBEDDED_MODEL_DIR: Path = Path(__file__).parent / EMBEDDED_MODEL_NAME
"""A folder in the diffusers FLUX.1 format, ready for ``FluxPipeline.from_pretrained``."""

__all__ = ["EMBEDDED_MODEL_DIR", "EMBEDDED_MODEL_NAME", "EMBEDDED_MODEL_VERSION"]
