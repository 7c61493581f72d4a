"""The product on machines that are slower than this one, so that many of them fit on it.

A paced denoiser draws every image as it should, with the carried model, and then waits until the
step has taken as long as on the device that its surface describes: a hundredth of that time is
spent computing. So each replica has its pace for itself, as on a GPU of its own, and two cores
carry several. All else is the product: ingress, engine, policies, router, the other stages.

A GPU is only told of here, so replicas reserve one and compute on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from ray.serve import Application

from benchmarks.trace import Kind
from deployments.application import bind_stages
from deployments.options.autoscaling import AutoscalingOptions
from deployments.options.files import WeightsOptions
from deployments.options.stages import DenoiserOptions
from deployments.stages.denoiser import Denoiser
from pipelines.catalog import models
from pipelines.engine.costs.surface import CostSurface, Load
from pipelines.families import family_of
from serve.app import ingress_deployment
from serve.settings.settings import Settings

MODEL = next(iter(models().values()))

SURFACE = CostSurface(base=0.02, per_token=0.0012)
"""Seconds of a step: 0.12 for an image of 128x128, which in ten steps takes 1.2."""


class PacedStage:
    """A `DenoiserStage` whose ticks take what `SURFACE` says, but not less than they need."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def tick(self, trajectories: Sequence[Any]) -> None:
        """As the stage's own."""
        began = time.perf_counter()
        lengths = [sum(segment.shape) for item in trajectories for segment in item.segments]
        self._stage.tick(trajectories)
        rest = SURFACE.seconds(Load.of(lengths)) - (time.perf_counter() - began)
        time.sleep(max(0.0, rest))


class PacedDenoiser(Denoiser):
    """Ray Serve deployment: the product's, over a paced stage."""

    def _load(
        self, source: str, family: str, options: DenoiserOptions, weights: WeightsOptions
    ) -> Any:
        return PacedStage(super()._load(source, family, options, weights))


class PacedOptions(DenoiserOptions):
    """A replica on each GPU; `scaling` takes the place of what the product tells Serve."""

    scaling: dict[str, Any] = Field(default_factory=dict)

    def deployment_kwargs(self) -> dict[str, Any]:
        kwargs = super().deployment_kwargs()
        if self.scaling:
            kwargs.pop("num_replicas", None)
            kwargs["autoscaling_config"] = self.scaling
        kwargs["ray_actor_options"]["num_gpus"] = 1
        return kwargs


def application(
    *, max_replicas: int, delays: Mapping[str, Any], by_requests: float | None, folder: Path
) -> Application:
    """The product with paced denoisers, none without work.

    They scale by their work, or, with `by_requests`, by Serve's own policy with so many requests
    for each; `delays` are both policies' `upscale_delay_s`, `downscale_delay_s` and
    `downscale_to_zero_delay_s`. Files of the run are kept in `folder`.
    """
    bounds: dict[str, Any] = {"min_replicas": 0, "max_replicas": max_replicas}
    options: dict[str, Any] = {"num_cpus": 0.2, "max_ongoing_requests": 10_000}
    if by_requests is None:
        options["autoscaling"] = AutoscalingOptions(**bounds, **delays, start_up_s=START_UP_S)
    else:
        # Serve counts over 30 s by default, twice as long as such a replica takes to start, and
        # hears of it every 10 s.
        rule = {
            "target_ongoing_requests": by_requests,
            "look_back_period_s": 15.0,
            "metrics_interval_s": 1.0,
        }
        options["scaling"] = {**bounds, **delays, **rule}
    settings = Settings.load({**_SETTINGS, "stages.storage.directory": str(folder / "files")})
    denoiser = PacedOptions(**options, calibration_s=2.0, cost_cache=folder / "cost")
    stages = settings.stages.model_copy(update={"denoiser": denoiser})
    bound = bind_stages(MODEL, stages, denoiser=PacedDenoiser)
    settings = settings.model_copy(update={"stages": stages})
    return ingress_deployment(settings).bind(settings, MODEL, None, bound)


START_UP_S = 10.0
"""Of a machine and a replica here, before it was measured."""

_SETTINGS: Mapping[str, str] = {
    "stages.safety.classifier": "off",
    "limits.max_queued_images": "10000",
    "limits.max_queued_images_per_tenant": "10000",
    "limits.request_timeout_s": "600",
    # Nothing is refused: what is late counts as a miss.
    "deadlines.unreachable": "best_effort",
}


def work_s(kind: Kind) -> float:
    """Seconds of one replica that a request takes among others."""
    return kind.steps * kind.n * SURFACE.share(_load(kind._replace(n=1)))


def solo_s(kind: Kind) -> float:
    """Seconds that its denoising takes alone."""
    return kind.steps * SURFACE.seconds(_load(kind))


def _load(kind: Kind) -> Load:
    family = family_of(MODEL)
    tokens = family.image_tokens(kind.size.height, kind.size.width) + family.text_tokens(MODEL)
    return Load.of([tokens] * kind.n)
