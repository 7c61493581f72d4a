"""What trajectories of one kind share: schedules, modulation and rotary factors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from pipelines.contracts import SamplingParams
from pipelines.cuts import Cut
from pipelines.families import FlowModel
from pipelines.sampling import Schedule
from pipelines.skipping import first_step
from pipelines.stages.trajectory import first_modulated

_ROTARY_TABLES_KEPT = 16
_SCHEDULES_KEPT = 64
_LAYOUTS_KEPT = 32


class Tables:
    """Computed once for equal arguments. For one thread, and nobody writes into what it gives."""

    def __init__(self, model: FlowModel) -> None:
        self._model = model
        self.rotary = lru_cache(_ROTARY_TABLES_KEPT)(model.rotary)
        self.schedule = lru_cache(_SCHEDULES_KEPT)(model.schedule)
        # Few distinct ones recur, and a set of trajectories stays together for many ticks.
        self.layout = lru_cache(_LAYOUTS_KEPT)(model.layout)

    def schedule_after(
        self, sampling: SamplingParams, cuts: Sequence[Cut], image_tokens: int
    ) -> Schedule:
        """The schedule of a job's steps as it is after these cuts, from where its image enters."""
        steps = sampling.num_inference_steps
        schedule = self.schedule(steps, image_tokens, sampling.skips_steps)
        if sampling.strength < 1.0:
            schedule = schedule.entered_at(first_step(steps, sampling.strength))
        for cut in cuts:
            schedule = self._model.cut_schedule(schedule, cut, image_tokens)
        return schedule

    def modulation(
        self,
        sampling: SamplingParams,
        pooled: torch.Tensor | None,
        schedule: Schedule,
        cuts: tuple[Cut, ...],
    ) -> torch.Tensor:
        """Modulation of the forwards since the last cut, in one product.

        No more and no less even where some of them are done: the same product has the same bits.
        """
        return self._model.modulation(
            schedule, first_modulated(cuts), sampling.guidance_scale, pooled
        )

    def planned_modulation(
        self, sampling: SamplingParams, pooled: torch.Tensor | None, image_tokens: int
    ) -> torch.Tensor:
        """Modulation of all forwards, out of the products that a job takes which is cut so on its
        way: other products might have other bits."""
        cuts, parts = sampling.planned_cuts, list[torch.Tensor]()
        for count in range(len(cuts) + 1):
            made = cuts[:count]
            schedule = self.schedule_after(sampling, made, image_tokens)
            until = cuts[count].step if count < len(cuts) else schedule.num_steps
            vec = self.modulation(sampling, pooled, schedule, made)
            parts.append(vec[: until - first_modulated(made)])
        return torch.cat(parts)
