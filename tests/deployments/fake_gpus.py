"""Options of stages that take GPUs of nodes that only claim to have some, and compute on the CPU.

The product refuses GPUs beside `device: cpu`, because they would stay idle; a test of placement
wants just that.
"""

from __future__ import annotations

from deployments.options.stage import StageOptions
from deployments.options.stages import DenoiserOptions, TextEncoderOptions, VaeDecoderOptions


class _OnCpu(StageOptions):
    @property
    def resolved_device(self) -> str:
        return "cpu"


class FakeGpuDenoiser(_OnCpu, DenoiserOptions):
    """A denoiser on GPUs that are only told of."""


class FakeGpuTextEncoder(_OnCpu, TextEncoderOptions):
    """A text encoder on such a GPU."""


class FakeGpuVaeDecoder(_OnCpu, VaeDecoderOptions):
    """A VAE decoder on such a GPU."""
