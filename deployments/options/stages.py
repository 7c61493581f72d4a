"""How each stage is placed and scaled: typed, frozen, checked before anything is deployed.

Knows nothing of where the values come from (`serve.settings` reads them), no torch and no weights.
What all stages have in common is in `stage.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from deployments.options.autoscaling import (
    AutoscalingOptions,
    ReplicaBounds,
    RequestAutoscalingOptions,
)
from deployments.options.base import Options
from deployments.options.c2pa import C2paOptions
from deployments.options.denoiser import GPU_MEMORY_SHARE, DenoiserOptions, ParallelOptions
from deployments.options.files import StorageOptions, WeightsOptions
from deployments.options.image_encoder import ImageEncoderOptions, takes_pictures
from deployments.options.stage import BatchingStageOptions, StageOptions
from deployments.options.weights_source import parse_source
from deployments.stage_table import FUSED, STAGES, StageRow
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError

__all__ = [
    "GPU_MEMORY_SHARE",
    "AutoscalingOptions",
    "BatchingStageOptions",
    "C2paOptions",
    "DenoiserOptions",
    "FinisherOptions",
    "ImageEncoderOptions",
    "Options",
    "ParallelOptions",
    "ReplicaBounds",
    "RequestAutoscalingOptions",
    "SafetyOptions",
    "StageOptions",
    "StagesConfig",
    "StorageOptions",
    "TextEncoderOptions",
    "VaeDecoderOptions",
    "WeightsOptions",
]


class TextEncoderOptions(BatchingStageOptions):
    """The text encoder pool."""

    section: ClassVar[str] = "text_encoder"
    live: ClassVar[tuple[str, ...]] = ("max_batch_size", "cache_entries", "autoscaling")

    cache_entries: NonNegativeInt = 64
    """Conditionings kept per replica, 4 MiB each for FLUX.1-dev in bfloat16; 0 keeps none."""


class VaeDecoderOptions(BatchingStageOptions):
    """The VAE decoder pool."""

    section: ClassVar[str] = "vae_decoder"
    live: ClassVar[tuple[str, ...]] = ("max_batch_size", "autoscaling")

    max_batch_size: PositiveInt = 4
    """Images of one size that are decoded together at most."""
    tile_from_pixels: PositiveInt | None = None
    """Pixels from which on a picture is decoded in overlapping tiles, which takes less memory and
    changes it a little; left out, from where a full batch would take a quarter of the device's
    memory. One that fits into a tile (1024x1024 for FLUX.1) is never tiled."""


class SafetyOptions(BatchingStageOptions):
    """The pool that classifies finished images."""

    section: ClassVar[str] = "safety"
    live: ClassVar[tuple[str, ...]] = ("threshold", "max_batch_size", "autoscaling")

    classifier: Literal["open_nsfw", "huggingface", "off"] = "open_nsfw"
    """With "open_nsfw": carried weights, on the CPU. With "huggingface": any image classifier.
    With "off": nothing is refused, and every verdict says so."""
    source: str | None = None
    """Weights of kind "huggingface": as `model_source`, a folder, `hf://` or `s3://`."""
    threshold: float = Field(default=0.8, ge=0.0, le=1.0)
    """Score from which an image is refused."""
    flagged_labels: tuple[str, ...] = ()
    """Labels of kind "huggingface" that count as unsafe, for example ["nsfw"]."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.classifier == "huggingface":
            examples = {
                "source": '"hf://Falconsai/nsfw_image_detection@main"',
                "flagged_labels": '["nsfw"]',
            }
            for field, example in examples.items():
                if not getattr(self, field):
                    raise self._reject(
                        field, f'is needed for classifier "huggingface", for example {example}'
                    )
            parse_source(self.source or "", field=f"{self.section}.source")
            return self
        for field in ("source", "flagged_labels", "num_gpus"):
            if getattr(self, field):
                raise self._reject(
                    field,
                    f'has no use for classifier "{self.classifier}"; leave it out, or set'
                    " classifier: huggingface",
                )
        return self


class FinisherOptions(StageOptions):
    """The pool that encodes and stores files."""

    section: ClassVar[str] = "finisher"
    live: ClassVar[tuple[str, ...]] = ("autoscaling",)

    num_cpus: NonNegativeFloat = 0.1
    """CPUs that Ray reserves for each replica; fractions share a core."""
    c2pa: C2paOptions = Field(default_factory=C2paOptions)
    """C2PA content credentials that files are signed with; none without a certificate."""

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.num_gpus > 0:
            raise self._reject("num_gpus", "has no use, as files are made on the CPU; leave it out")
        return self


class StagesConfig(Options):
    """All stages; the defaults fit a laptop with two cores and no GPU.

    Each row of `table` has its options here, in the field of its key.
    """

    table: ClassVar[tuple[StageRow, ...]] = STAGES

    layout: Literal["split", "fused"] = "split"
    """With "split": a deployment per stage. With "fused": all stages in one replica, for one GPU or
    a small machine. Replicas, GPUs, labels and queue bounds are then the denoiser's, and CPUs those
    of all stages; a stage computes on the GPU if its own `num_gpus` is above 0."""
    text_encoder: TextEncoderOptions = Field(default_factory=TextEncoderOptions)
    """Prompts to conditionings."""
    image_encoder: ImageEncoderOptions = Field(default_factory=ImageEncoderOptions)
    """Pictures that come with requests to what the denoiser takes of them."""
    denoiser: DenoiserOptions = Field(default_factory=DenoiserOptions)
    """Conditionings to latents."""
    vae_decoder: VaeDecoderOptions = Field(default_factory=VaeDecoderOptions)
    """Latents to pixels."""
    safety: SafetyOptions = Field(default_factory=SafetyOptions)
    """Pixels to a verdict."""
    finisher: FinisherOptions = Field(default_factory=FinisherOptions)
    """Pixels to a file."""
    storage: StorageOptions = Field(default_factory=StorageOptions)
    """Where files are kept."""
    weights: WeightsOptions = Field(default_factory=WeightsOptions)
    """How weights come to a node."""
    log_encoding: Literal["TEXT", "JSON"] = "TEXT"
    """How all processes of the application write their logs: lines for people, or JSON objects."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_successor(cls, values: Any) -> Any:
        if isinstance(values, dict) and "together" in values:
            raise ConfigurationError(
                "layout: has taken the place of `together`; write layout: fused for true, and"
                " nothing for false"
            )
        return values

    @model_validator(mode="after")
    def _check_gpus_of_fused_stages(self) -> Self:
        if self.layout == "fused" and self.denoiser.ranks > 1:
            raise self._reject(
                "layout",
                f"fused is one process on one GPU, and denoiser.parallel asks for"
                f" {self.denoiser.ranks}; leave out the one or the other",
            )
        if self.layout == "fused" and self.denoiser.num_gpus == 0:
            for row in self.table:
                options: StageOptions = getattr(self, row.key)
                if options.num_gpus > 0:
                    raise self._reject(
                        f"{options.section}.num_gpus",
                        f"is {options.num_gpus:g}, but fused stages are on the denoiser's GPU, and"
                        " denoiser.num_gpus is 0; set denoiser.num_gpus: 1",
                    )
        return self

    def rows(self, spec: ModelSpec) -> tuple[StageRow, ...]:
        """The stages that there will be for `spec`: all of `table`, but the image encoder only
        where pictures can come."""
        with_pictures = self.image_encoder.enabled
        if with_pictures is None:
            with_pictures = takes_pictures(spec)
        return tuple(row for row in self.table if with_pictures or not row.needs_pictures)

    def deployed(self, spec: ModelSpec) -> dict[StageRow, StageOptions]:
        """The options of each deployment that there will be: of every stage, or of one for all."""
        stages = self._options(spec)
        if self.layout == "split":
            return stages
        num_cpus = sum(options.num_cpus for options in stages.values())
        return {FUSED: self.denoiser.model_copy(update={"num_cpus": num_cpus})}

    def scales_to_zero(self, spec: ModelSpec) -> dict[str, float]:
        """The deployments that go down to no replica, and the seconds that their start may take."""
        return {
            row.name: options.autoscaling.start_up_s
            for row, options in self.deployed(spec).items()
            if options.autoscaling is not None and options.autoscaling.min_replicas == 0
        }

    def arguments(self, row: StageRow, spec: ModelSpec) -> dict[str, Any]:
        """What a stage's constructor gets, by name."""
        given = {
            "spec": spec,
            "options": getattr(self, row.key, None),
            "weights": self.weights,
            "storage": self.storage,
            "config": self,
        }
        return row.arguments(given)

    def running_in(self, row: StageRow, spec: ModelSpec) -> dict[StageRow, StageOptions]:
        """The stages that a replica of `row` runs, with their own options."""
        stages = self._options(spec)
        return stages if row is FUSED else {row: stages[row]}

    def _options(self, spec: ModelSpec) -> dict[StageRow, StageOptions]:
        return {row: getattr(self, row.key) for row in self.rows(spec)}
