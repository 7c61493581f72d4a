"""What all groups measure with: one set of random weights, and the programs over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel

from benchmarks.alternation import ENOUGH, Limit, Way
from benchmarks.gpu.clock import Clock
from benchmarks.random_flux import (
    DEV,
    TINY,
    FluxShape,
    Request,
    draw_requests,
    random_transformer,
    step_flops,
    twin_of,
)
from pipelines.flux1.family import FAMILY as FLUX1
from pipelines.flux1.transformer import PackedFlux

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "4090": 165,
}
"""Dense bfloat16 peak in TFLOP/s by part of the device's name, from NVIDIA's data sheets; the first
that fits counts."""

BY_OFFSETS = ("varlen", "fa3")
"""Back ends with one call for all segments. The others are older, or need a long build."""


def peak_flops(name: str) -> float | None:
    """The dense bfloat16 peak of the device of this name in FLOP/s, where it is known."""
    return next((1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes by what they are for. `side`, `small` and `mixed` are sides of square pictures in
    pixels, `counts` how many small ones, `ceiling` the width of a square product, `copied` bytes,
    `calibration_s` seconds for the cost surface, `lora_rank` that of each adapter,
    `limit` how often a way is timed, and `shallow` the model that is compared to the bit."""

    shape: FluxShape
    shallow: FluxShape
    side: int
    small: int
    counts: tuple[int, ...]
    mixed: tuple[int, ...]
    ceiling: int
    copied: int
    calibration_s: float
    lora_rank: int
    compiler: str
    limit: Limit = ENOUGH


FULL = Plan(
    shape=DEV,
    # A row of a product has the same bits in every block, or in none: six blocks show it.
    shallow=FluxShape(
        name="FLUX.1-dev, 6 blocks",
        text_tokens=512,
        num_steps=4,
        config={"guidance_embeds": True, "num_layers": 2, "num_single_layers": 4},
    ),
    side=1024,
    small=256,
    counts=(1, 4, 8),
    mixed=(256, 512, 768, 1024),
    ceiling=8192,
    copied=2**30,
    calibration_s=12.0,
    lora_rank=16,
    compiler="inductor",
)
SMALL = Plan(
    shape=TINY,
    shallow=TINY,
    side=64,
    small=32,
    counts=(1, 2),
    mixed=(32, 48, 64),
    ceiling=64,
    copied=2**16,
    calibration_s=0.2,
    lora_rank=8,
    compiler="eager",
    limit=Limit(rounds=2),
)


Figures = dict[str, float | str]


class Probe(NamedTuple):
    """Figures that are no times, by name."""

    name: str
    run: Callable[[], Figures]
    needs_cuda: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured under one name: `ways` and `probes`.

    In a contest all ways do the same, and the first is the measure of the others; else each stands
    for itself. `flops` of one step of it, where that is arithmetic; asked for when a way has run.
    """

    name: str
    ways: Sequence[Way] = ()
    probes: Sequence[Probe] = ()
    flops: Callable[[], float | None] = lambda: None
    is_contest: bool = True


@dataclass(eq=False)
class Bench:
    """Programs over one set of weights, each made when first asked for, and kept.

    `attend_with` of `packed` and `compiled` is a name in `pipelines.packing.attention.BACKENDS`.
    """

    plan: Plan
    device: torch.device
    clock: Clock
    is_child: bool = False
    """Started by this benchmark, for variables that a process reads once."""

    def __post_init__(self) -> None:
        self.transformer = cache(self._transformer)
        self.packed = cache(self._packed)
        self.compiled = cache(self._compiled)
        self.twin = cache(self._twin)
        self.requests = cache(self._requests)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    @cached_property
    def config(self) -> Any:
        """The transformer's, without making it."""
        with torch.device("meta"):
            return FluxTransformer2DModel(**self.plan.shape.config).config

    def normal(self, *size: int) -> torch.Tensor:
        """Random numbers in bfloat16 on the device."""
        return torch.randn(size, device=self.device, dtype=self.dtype)

    def flops(self, sides: Sequence[int]) -> float:
        """Operations of one step of requests of these sides."""
        shape = self.plan.shape
        lengths = [shape.text_tokens + FLUX1.image_tokens(side, side) for side in sides]
        return step_flops(self.config, lengths)

    def flops_of(self, sides: Sequence[int]) -> Callable[[], float]:
        return partial(self.flops, sides)

    def _transformer(self) -> FluxTransformer2DModel:
        return random_transformer(self.plan.shape, self.device, self.dtype)

    def _packed(self, attend_with: str = "sdpa") -> PackedFlux:
        return PackedFlux(self.transformer(), attention=attend_with)

    def _compiled(self, attend_with: str = "sdpa") -> PackedFlux:
        return PackedFlux(
            self.transformer(), attention=attend_with, compile=True, compiler=self.plan.compiler
        )

    def _twin(self) -> FluxTransformer2DModel:
        """Diffusers' own transformer over the same memory, compiled block by block."""
        self.packed()  # which rearranges the weights that the twin is to share
        twin = twin_of(self.transformer())
        twin.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=self.plan.compiler)
        return twin

    def _requests(self, sides: tuple[int, ...]) -> list[Request]:
        return draw_requests(self.plan.shape, sides, self.packed())
