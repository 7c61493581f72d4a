"""What stages' options have in common: replicas, resources, queue bounds, health, precision.

Bounds of one field are pydantic's `ValidationError`; rules that tie fields together are a
`ConfigurationError` whose message starts with the field's full name, such as `denoiser.num_gpus`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from deployments.options.autoscaling import AutoscalingOptions
from deployments.options.base import Options
from pipelines.errors import ConfigurationError

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["float32", "bfloat16", "float16"]

_DRAIN_POLL_S = 1.0
"""How often a draining replica looks whether it is idle. Serve's 2 s slows every shutdown; with
much less, a stage would be gone before `draining_graph.py` has called it."""


class StageOptions(Options):
    """What every stage has in common: replicas, resources, queue bounds, health, precision."""

    num_replicas: PositiveInt | None = None
    """A fixed number of replicas; left out (and without `autoscaling`), 1."""
    autoscaling: AutoscalingOptions | None = None
    """Replicas by load, instead of `num_replicas`."""
    num_cpus: NonNegativeFloat = 0.2
    """CPUs that Ray reserves for each replica; fractions share a core."""
    num_gpus: NonNegativeFloat = 0.0
    """GPUs of each replica: 0, a fraction below 1 to share one, or a whole number."""
    resources: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Custom Ray resources of each replica, by name."""
    accelerator_type: str | None = None
    """Only nodes with this accelerator, by Ray's name, for example "H100"."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Only nodes with these labels, for example {"pool": "decode"}."""
    max_ongoing_requests: PositiveInt = 1024
    """Requests that one replica holds at once; more wait at the caller, where nothing orders them
    by deadline."""
    max_queued_requests: int = Field(default=-1, ge=-1)
    """Requests that may wait at each caller; more are refused as overload. -1: no bound."""
    health_check_period_s: PositiveFloat = 2.0
    """Seconds between health checks, and so about how soon a dead replica is noticed."""
    health_check_timeout_s: PositiveFloat = 30.0
    """Seconds that a replica may take to answer a health check."""
    graceful_shutdown_timeout_s: NonNegativeFloat = 60.0
    """Seconds that a replica may use to finish its work when it is taken away; the longest
    generation should fit in."""
    max_surge_percent: int = Field(default=0, ge=0, le=100)
    """Share of the replicas, at least one, that an update may start before it takes old ones away:
    without, a stage of one replica has none meanwhile; with, a spare place is needed."""
    device: Device = "auto"
    """Where the stage computes; "auto" is "cuda" if `num_gpus` is above 0, else "cpu"."""
    dtype: DType = "float32"
    """Precision of the weights and of the computation."""
    num_threads: PositiveInt | None = None
    """CPU threads of the computation; left out, `num_cpus` rounded down, at least 1."""

    @field_validator("autoscaling", mode="wrap")
    @classmethod
    def _name_the_stage(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{cls.section}.{error.message}") from None

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.num_replicas is not None and self.autoscaling is not None:
            raise self._reject(
                "num_replicas",
                "cannot stand beside autoscaling; leave it out and write"
                f" autoscaling.initial_replicas: {self.num_replicas}",
            )
        return self

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        gpus = self.num_gpus
        if gpus > 1 and gpus != int(gpus):
            raise self._reject(
                "num_gpus",
                f"{gpus:g} cannot be placed: use a whole number such as {math.ceil(gpus)}, or a"
                " fraction below 1 such as 0.5",
            )
        if self.device == "cuda" and gpus == 0:
            # Ray hides no GPU from a replica without one, so such replicas would all use GPU 0.
            raise self._reject(
                "device", 'is "cuda" but num_gpus is 0; set num_gpus: 1, or device: cpu'
            )
        if self.device == "cpu" and gpus > 0:
            raise self._reject(
                "device",
                f'is "cpu" but num_gpus is {gpus:g}, which would stay idle; set num_gpus: 0, or'
                " device: auto",
            )
        return self

    @property
    def resolved_device(self) -> str:
        """Where the stage computes: "cpu" or "cuda"."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    @property
    def device_share(self) -> float:
        """The share of its device that a replica may take: 1 unless it shares a GPU."""
        return self.num_gpus if 0 < self.num_gpus < 1 else 1.0

    @property
    def resolved_threads(self) -> int:
        """CPU threads that the stage's computation uses."""
        return self.num_threads or max(1, int(self.num_cpus))

    def deployment_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `ray.serve.deployment(...)`, all but the name."""
        if self.autoscaling is not None:
            scaling = {"autoscaling_config": self.autoscaling.serve_config()}
        else:
            scaling = {"num_replicas": self.num_replicas or 1}
        return {
            **scaling,
            "ray_actor_options": self._actor_options(),
            "max_ongoing_requests": self.max_ongoing_requests,
            "max_queued_requests": self.max_queued_requests,
            "health_check_period_s": self.health_check_period_s,
            "health_check_timeout_s": self.health_check_timeout_s,
            "graceful_shutdown_timeout_s": self.graceful_shutdown_timeout_s,
            "graceful_shutdown_wait_loop_s": _DRAIN_POLL_S,
            "max_surge_percent": self.max_surge_percent,
        }

    def _actor_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.accelerator_type is not None:
            options["accelerator_type"] = self.accelerator_type
        if self.label_selector:
            options["label_selector"] = dict(self.label_selector)
        if self.autoscaling is not None:
            options["runtime_env"] = {"env_vars": self.autoscaling.environment()}
        return options


class BatchingStageOptions(StageOptions):
    """A stage that runs what waits as one batch."""

    max_batch_size: PositiveInt = 8
    """Items that run together at most."""

    @model_validator(mode="after")
    def _check_batch_fits(self) -> Self:
        if self.max_batch_size > self.max_ongoing_requests:
            raise self._reject(
                "max_batch_size",
                f"{self.max_batch_size} can never be reached with max_ongoing_requests"
                f" {self.max_ongoing_requests}; use at most {self.max_ongoing_requests}, or raise"
                f" max_ongoing_requests to {self.max_batch_size}",
            )
        return self
