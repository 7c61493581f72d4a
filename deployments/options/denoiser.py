"""What can be set for the denoiser: its engine, and the ranks of a replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from deployments.options.base import Options
from deployments.options.stage import StageOptions
from deployments.options.weights_source import parse_source
from pipelines.parallel.degrees import Degrees

GPU_MEMORY_SHARE = 0.8
"""What a denoiser uses of the memory that its weights leave free, without `memory_mib`; the rest is
the allocator's and the libraries'."""


class ParallelOptions(Options):
    """On how many ranks a denoiser replica runs, with a GPU each; see `pipelines.parallel`."""

    section: ClassVar[str] = "denoiser.parallel"

    tensor: PositiveInt = 1
    """Ranks that share the weights of every block: for weights that do not fit one GPU."""
    ulysses: PositiveInt = 1
    """Such groups of ranks that share the tokens: the first choice where the weights fit."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that a step may take before a rank counts as stuck, and the replica is replaced."""

    @property
    def degrees(self) -> Degrees:
        return Degrees(tensor=self.tensor, ulysses=self.ulysses)


class ControlNetOptions(Options):
    """A ControlNet beside the transformer: a second model in the same replica."""

    section: ClassVar[str] = "denoiser.controlnets"

    source: str
    """Its weights: as `model_source`, a folder, `hf://` or `s3://`."""
    kinds: dict[str, NonNegativeInt | None]
    """The kinds of control maps that it follows, such as "canny" or "depth", each with its mode in
    a union, or none in any other."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        parse_source(self.source, field=f"{self.section}.source")
        if not self.kinds:
            raise self._reject("kinds", 'is empty; name one at least, for example {"canny": 0}')
        return self


class DenoiserOptions(StageOptions):
    """The denoiser pool: its engine, its attention, and the ranks of a replica."""

    section: ClassVar[str] = "denoiser"
    live: ClassVar[tuple[str, ...]] = ("policy", "max_works", "checkpoint_every", "autoscaling")

    num_cpus: NonNegativeFloat = 0.3
    """CPUs that Ray reserves for each replica; fractions share a core."""
    policy: Literal["edf", "srpt", "fifo"] = "edf"
    """Which images step next: "edf" keeps deadlines, "srpt" the mean latency low, "fifo" none."""
    max_works: PositiveInt = 32
    """Images in one packed step at most; the engine's own knee usually comes first."""
    max_tokens_per_tick: PositiveInt | None = None
    """Text and image tokens in one packed step, and so of one image, at most; left out, what fits
    into half of `memory_mib`."""
    memory_mib: PositiveInt | None = None
    """Memory beside the weights, half for a step's activations and half for images under way; left
    out, 80 % of a GPU's free memory, or 2048 MiB without one."""
    checkpoint_every: PositiveInt = 5
    """Steps after which an image could go on elsewhere, should its replica be lost."""
    calibration_s: PositiveFloat = 5.0
    """Seconds that measuring the cost of a step may take at the first start."""
    cost_cache: Path | None = None
    """Folder that keeps these measurements; left out, ~/.cache/sluice/cost."""
    attention: Literal["sdpa", "varlen", "fa3", "flash", "xformers"] = "sdpa"
    """The variable-length attention, by its name in `pipelines.packing.attention`; all but "sdpa"
    need a GPU, "varlen" and "flash" half precision too, "fa3" a Hopper GPU and bfloat16; "fa3",
    "flash" and "xformers" a package."""
    compile: bool = False
    """Whether blocks are compiled at the start, which takes a minute: faster on a GPU, and close to
    eager results instead of equal."""
    trace_ticks_every: PositiveInt = 1
    """Of so many ticks one is a span of its own, in the traces of the requests that it stepped."""
    previews: bool = True
    """Whether images can be shown while they are drawn, to who asks for it."""
    preview_decoder: Path | None = None
    """Folder of a diffusers `AutoencoderTiny` of the model's family (`config.json` and weights as
    safetensors) that draws previews; left out, colours are guessed from latents."""
    controlnets: tuple[ControlNetOptions, ...] = ()
    """ControlNets that control maps may be followed by, each with kinds of its own."""
    parallel: ParallelOptions = Field(default_factory=ParallelOptions)
    """Several GPUs for one replica; `num_cpus` and `num_gpus` are then each rank's."""

    @property
    def ranks(self) -> int:
        """Processes of a replica: 1, or those of `parallel`."""
        return self.parallel.degrees.ranks

    def deployment_kwargs(self) -> dict[str, Any]:
        """As every stage's; with several ranks, a bundle for each, all on one node."""
        kwargs = super().deployment_kwargs()
        if self.ranks == 1:
            return kwargs
        actor = kwargs["ray_actor_options"]
        bundle = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        if accelerator := actor.pop("accelerator_type", None):
            bundle[f"accelerator_type:{accelerator}"] = 0.001
        labels = actor.pop("label_selector", None)
        return {
            **kwargs,
            "placement_group_bundles": [
                {name: amount for name, amount in bundle.items() if amount}
                for _ in range(self.ranks)
            ],
            "placement_group_strategy": "STRICT_PACK",
            **({"placement_group_bundle_label_selector": [labels] * self.ranks} if labels else {}),
        }

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.ranks > 1 and self.num_gpus not in (0, 1):
            raise self._reject(
                "num_gpus",
                f"{self.num_gpus:g} is for each of {self.ranks} ranks, which use one; set num_gpus:"
                f" 1 for {self.ranks} GPUs a replica",
            )
        return self

    @model_validator(mode="after")
    def _check_controlnets(self) -> Self:
        kinds = [kind for each in self.controlnets for kind in each.kinds]
        if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise self._reject(
                "controlnets", f"two follow {', '.join(sorted(twice))}; leave it to one of them"
            )
        if self.controlnets and self.ranks > 1:
            raise self._reject(
                "controlnets", "are not split over ranks; leave them out, or denoiser.parallel"
            )
        return self

    @model_validator(mode="after")
    def _check_works_fit(self) -> Self:
        if self.max_works > self.max_ongoing_requests:
            raise self._reject(
                "max_works",
                f"{self.max_works} can never be reached with max_ongoing_requests"
                f" {self.max_ongoing_requests}; use at most {self.max_ongoing_requests}, or raise"
                f" max_ongoing_requests to {self.max_works}",
            )
        return self
