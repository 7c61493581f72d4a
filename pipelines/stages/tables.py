"""What trajectories of one kind share: schedules, rotary factors, modulation."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch

from pipelines.flux1.latents import position_ids
from pipelines.flux1.schedule import make_schedule
from pipelines.flux1.transformer import PackedFlux
from pipelines.packing.layout import RotaryTable
from pipelines.sampling import Schedule

_ROTARY_TABLES_KEPT = 16
_SCHEDULES_KEPT = 64


class Tables:
    """Computed once for equal arguments. For one thread, and nobody writes into what it gives."""

    def __init__(self, flux: PackedFlux, scheduler_config: dict[str, Any]) -> None:
        self._flux = flux
        self._scheduler_config = scheduler_config
        self.rotary = lru_cache(_ROTARY_TABLES_KEPT)(self._rotary)
        self.schedule = lru_cache(_SCHEDULES_KEPT)(self._schedule)
        self._modulations: WeakValueDictionary[Hashable, torch.Tensor] = WeakValueDictionary()

    def modulation(
        self, timesteps: torch.Tensor, guidance_scale: float, pooled: torch.Tensor
    ) -> torch.Tensor:
        """`PackedFlux.modulation`, the same tensor as long as anybody has it.

        The images of a request differ in noise only, and modulation is large: 59 MB for 28 steps of
        FLUX.1.
        """
        bits = pooled.view(torch.uint8).cpu().numpy().tobytes()
        key = (tuple(timesteps.tolist()), guidance_scale, bits)
        vec = self._modulations.get(key)
        if vec is None:
            vec = self._flux.modulation(timesteps, guidance_scale, pooled)
            self._modulations[key] = vec
        return vec

    def _schedule(self, num_steps: int, image_tokens: int, skips_steps: bool) -> Schedule:
        return make_schedule(
            self._scheduler_config,
            num_steps=num_steps,
            image_tokens=image_tokens,
            device=self._flux.device,
            skips_steps=skips_steps,
        )

    def _rotary(self, text_tokens: int, height: int, width: int) -> RotaryTable:
        ids = position_ids(
            text_tokens,
            height=height,
            width=width,
            device=self._flux.device,
            dtype=self._flux.dtype,
        )
        return self._flux.rotary(ids)
