"""What settings would place where, and what it takes there. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deployments.names import INGRESS_NAME
from deployments.options.stages import (
    GPU_MEMORY_SHARE,
    BatchingStageOptions,
    DenoiserOptions,
    ImageEncoderOptions,
    ReplicaBounds,
    StageOptions,
    StagesConfig,
    VaeDecoderOptions,
)
from deployments.stage_table import FUSED, ModelPart, StageRow
from pipelines.catalog import ModelSpec
from pipelines.errors import ConfigurationError
from pipelines.families import ModelParts, family_of
from pipelines.tasks import Task
from pipelines.tiling import Tiling, tiling_for
from serve.capacity import gpus
from serve.settings.sections import Limits
from serve.settings.settings import Settings

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CUDA_CONTEXT = 2**29
"""What CUDA and its libraries take in each process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one process of a replica reserves."""

    num_cpus: float
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that one replica needs for the largest image, or the largest batch, that it may get.

    `free` is what it cannot use, because it shares out by fixed parts.
    """

    weights: int
    activations: int
    trajectories: int = 0
    free: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.trajectories + self.free

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            weights=self.weights + other.weights,
            activations=self.activations + other.activations,
            trajectories=self.trajectories + other.trajectories,
            free=self.free + other.free,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one deployment goes: how many replicas (equal bounds: fixed), and what each takes.

    The `bundles` of a replica are on one node. `setting` is where its options stand. `memory` is
    None where no part of the model is there; it is the GPUs' where `device` is "cuda". It does not
    count the weights of the stages in `uncounted`, which are on the GPU too.
    """

    deployment: str
    setting: str
    min_replicas: int
    max_replicas: int
    bundles: tuple[Bundle, ...]
    device: str = "cpu"
    dtype: str | None = None
    accelerator_type: str | None = None
    selector: Mapping[str, str] = field(default_factory=dict[str, str])
    memory: Memory | None = None
    uncounted: tuple[str, ...] = ()

    @property
    def num_cpus(self) -> float:
        return sum(bundle.num_cpus for bundle in self.bundles)

    @property
    def num_gpus(self) -> float:
        return sum(bundle.num_gpus for bundle in self.bundles)

    @property
    def gpus_each(self) -> float:
        """GPUs of one process of a replica."""
        return self.bundles[0].num_gpus

    @property
    def gpu_bytes(self) -> int:
        """GPU memory of one process of a replica, the libraries' included; 0 without a GPU. With
        stages that are `uncounted`, the least that it can be."""
        if self.num_gpus == 0:
            return 0
        return _CUDA_CONTEXT + (self.memory.total if self.memory is not None else 0)

    @property
    def where(self) -> str:
        """The nodes it asks for, in words."""
        labels = [f"{name}={value}" for name, value in self.selector.items()]
        return " ".join(filter(None, [self.accelerator_type, *labels]))


def placements(settings: Settings) -> list[Placement]:
    """Every deployment of the application, the ingress first.

    Raises what the family's `parts_of` raises, and ConfigurationError for too little memory, or
    ranks that the model cannot be split over.
    """
    ingress, spec = settings.ingress, settings.model_spec()
    low, high = _bounds(ingress.num_replicas, ingress.autoscaling)
    first = Placement(
        deployment=INGRESS_NAME,
        setting="ingress",
        min_replicas=low,
        max_replicas=high,
        bundles=(Bundle(num_cpus=ingress.num_cpus),),
        selector=ingress.label_selector,
    )
    needs = _Needs(family_of(spec).parts_of(spec), spec, settings.limits)
    deployed = settings.stages.deployed(spec).items()
    return [first, *(_stage(row, each, settings.stages, needs) for row, each in deployed)]


def _stage(row: StageRow, options: StageOptions, stages: StagesConfig, needs: _Needs) -> Placement:
    low, high = _bounds(options.num_replicas, options.autoscaling)
    device = options.resolved_device
    there = {
        each: own
        for each, own in stages.running_in(row, needs.spec).items()
        if own.resolved_device == device and each.has_weights
    }
    bundle = Bundle(
        num_cpus=options.num_cpus, num_gpus=options.num_gpus, resources=options.resources
    )
    return Placement(
        deployment=row.name,
        setting="stages.denoiser" if row is FUSED else f"stages.{row.key}",
        min_replicas=low,
        max_replicas=high,
        bundles=(bundle,) * (options.ranks if isinstance(options, DenoiserOptions) else 1),
        device=device,
        dtype=options.dtype if row.has_weights else None,
        accelerator_type=options.accelerator_type,
        selector=options.label_selector,
        memory=needs.of(there),
        uncounted=tuple(each.name for each in there if each.holds is None)
        if device == "cuda"
        else (),
    )


def _bounds(replicas: int | None, autoscaling: ReplicaBounds | None) -> tuple[int, int]:
    if autoscaling is None:
        return replicas or 1, replicas or 1
    return autoscaling.min_replicas, autoscaling.max_replicas


@dataclass(frozen=True, slots=True)
class _Needs:
    """The memory of each stage for one model and what its requests may ask for."""

    parts: ModelParts
    spec: ModelSpec
    limits: Limits

    def of(self, stages: Mapping[StageRow, StageOptions]) -> Memory | None:
        """Of the parts of the model that are in `stages`; None if there is none."""
        known = [
            self._part(row.holds, options)
            for row, options in stages.items()
            if row.holds is not None
        ]
        return sum(known[1:], known[0]) if known else None

    def _part(self, part: ModelPart, options: StageOptions) -> Memory:
        match part:
            case "text_encoder":
                return self._encoder(options)
            case "image_encoder":
                assert isinstance(options, ImageEncoderOptions)
                return self._image_encoder(options)
            case "transformer":
                assert isinstance(options, DenoiserOptions)
                return self._denoiser(options)
            case "vae":
                assert isinstance(options, VaeDecoderOptions)
                return self._decoder(options)

    def _encoder(self, options: StageOptions) -> Memory:
        return Memory(
            weights=self.parts.text_weights * _BYTES[options.dtype],
            activations=self.parts.encode_bytes(
                batch=_batch(options), tokens=family_of(self.spec).text_tokens(self.spec)
            ),
        )

    def _image_encoder(self, options: ImageEncoderOptions) -> Memory:
        """Pictures are encoded one by one, at the size that is drawn, whatever waits; large ones in
        tiles."""
        itemsize = _BYTES[options.dtype]

        def activations(pixels: int, tiling: Tiling | None) -> int:
            return self.parts.encode_image_bytes(pixels=pixels, itemsize=itemsize, tiling=tiling)

        return Memory(
            weights=self.parts.encoder_weights * itemsize,
            activations=self._in_tiles(options, activations),
        )

    def _decoder(self, options: VaeDecoderOptions) -> Memory:
        itemsize = _BYTES[options.dtype]

        def activations(pixels: int, tiling: Tiling | None) -> int:
            return self.parts.decode_bytes(
                batch=options.max_batch_size, pixels=pixels, itemsize=itemsize, tiling=tiling
            )

        return Memory(
            weights=self.parts.decoder_weights * itemsize,
            activations=self._in_tiles(options, activations),
        )

    def _in_tiles(
        self,
        options: ImageEncoderOptions | VaeDecoderOptions,
        activations: Callable[[int, Tiling | None], int],
    ) -> int:
        """The `activations` of the largest picture, tiled as the stage will do it: by what its GPU
        has in all where that is known here. Else, unless `tile_from_pixels` says, the least that it
        can be, tiles for all that is larger than one."""
        memory = gpus.memory_bytes(options.accelerator_type) if options.num_gpus else None
        tiling = tiling_for(
            self.parts.tile_size,
            options.tile_from_pixels,
            memory=int((memory or 0) * options.device_share),
            bytes_of=lambda pixels: activations(pixels, None),
            option=f"stages.{options.section}.tile_from_pixels",
        )
        return activations(self.limits.largest_pixels(self.spec), tiling)

    def _denoiser(self, options: DenoiserOptions) -> Memory:
        """The largest image alone, with a reference of its size where the model edits: the engine
        gives half of what is free to the activations of a step, and half to images under way. Of
        several ranks it is the first, which needs most."""
        itemsize, degrees = _BYTES[options.dtype], options.parallel.degrees
        tokens = self.limits.largest_tokens(self.spec)
        family = family_of(self.spec)
        text = family.text_tokens(self.spec)
        if Task.EDIT in self.spec.tasks:
            tokens += tokens - text
        if degrees.ranks > 1 and not family.shards:
            raise ConfigurationError(
                f"stages.denoiser.parallel: models of the family {family.name}, such as"
                f" {self.spec.name}, cannot be split over ranks; leave it out"
            )
        try:
            degrees.check(self.parts.heads)
        except ConfigurationError as error:
            raise ConfigurationError(f"stages.denoiser.{error.message}") from error
        activations = self.parts.tick_bytes(
            tokens=tokens,
            itemsize=itemsize,
            tensor=degrees.tensor,
            ulysses=degrees.ulysses,
        )
        trajectory = self.parts.trajectory_bytes(
            text=text,
            image=tokens - text,
            segments=1,
            num_steps=self.limits.max_steps,
            itemsize=itemsize,
            skips_steps=False,
        )
        shared = 2 * max(activations, trajectory)
        if options.memory_mib is not None:
            if options.memory_mib * 2**20 < shared:
                raise ConfigurationError(
                    f"stages.denoiser.memory_mib: {options.memory_mib} cannot hold a step of the"
                    f" largest image that limits allow; use at least {-(-shared // 2**20)}, or"
                    " lower limits.max_pixels"
                )
            shared = options.memory_mib * 2**20
        elif options.resolved_device == "cuda":
            shared = int(shared / GPU_MEMORY_SHARE)
        return Memory(
            weights=self.parts.first_rank_weights(degrees.tensor) * itemsize,
            activations=activations,
            trajectories=trajectory,
            free=shared - activations - trajectory,
        )


def _batch(options: StageOptions) -> int:
    """Items that a stage runs together at most."""
    return options.max_batch_size if isinstance(options, BatchingStageOptions) else 1
