"""When a pool gets how many replicas: options, and what Ray Serve is told of them.

`deployments.scaling.rule` says how a stage's are decided.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from deployments.options.base import Options

_LOOK_BACK_S = (15.0, 60.0)
"""Bounds of the seconds over which it is counted what comes: as long as a replica takes to start,
since so far ahead is looked."""

_REPORT_EVERY_S = 1.0
"""Seconds after which replicas look at their load, and tell the controller; and after which callers
tell it of calls that wait for a replica, which is what wakes a stage. Serve's own are a fifth of
what is looked back, and 10 s: they miss a burst, and a cold start takes 10 s more."""

_POLICY = "deployments.scaling.policies:WorkPolicy"


class ReplicaBounds(Options):
    """The least and the most replicas of a pool."""

    section: ClassVar[str] = "autoscaling"

    min_replicas: NonNegativeInt = 1
    """Replicas kept without traffic; 0 lets the stage sleep, at the price of a cold start. A
    readiness probe asks every stage, and so wakes it."""
    max_replicas: PositiveInt = 1
    """Replicas under full load."""
    initial_replicas: NonNegativeInt | None = None
    """Replicas right after deployment; left out, `min_replicas`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        low, high, initial = self.min_replicas, self.max_replicas, self.initial_replicas
        if low > high:
            raise self._reject(
                "min_replicas",
                f"{low} is above max_replicas {high}; lower it to {high} or raise max_replicas"
                f" to {low}",
            )
        if initial is not None and not low <= initial <= high:
            raise self._reject(
                "initial_replicas",
                f"{initial} is outside min_replicas..max_replicas; use a value in {low}..{high},"
                " or leave it out",
            )
        return self

    def _bounds(self) -> dict[str, Any]:
        return self.model_dump(
            include={"min_replicas", "max_replicas", "initial_replicas"}, exclude_none=True
        )


class RequestAutoscalingOptions(ReplicaBounds):
    """Replicas by requests: for the ingress, whose requests cost it about the same."""

    target_ongoing_requests: PositiveFloat = 32.0
    """Requests, running and queued, that one replica should have."""
    upscale_delay_s: NonNegativeFloat = 10.0
    """Seconds of too much load before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 300.0
    """Seconds of too little load before replicas are taken away."""

    def serve_config(self) -> dict[str, Any]:
        """For `ray.serve.config.AutoscalingConfig`."""
        return self.model_dump(exclude_none=True)


class AutoscalingOptions(ReplicaBounds):
    """Replicas of a stage by seconds of work: what is queued, and what comes per second."""

    live: ClassVar[tuple[str, ...]] = ("target_wait_s",)

    target_wait_s: PositiveFloat = 5.0
    """Seconds in which what is queued should be worked off, once new replicas run."""
    max_utilisation: float = Field(default=0.8, gt=0, le=1)
    """Share of its time that a replica may be busy; above it, replicas are added."""
    min_utilisation: float = Field(default=0.6, gt=0, le=1)
    """Share that the replicas left would have to be busy before one is taken away."""
    start_up_s: NonNegativeFloat = 30.0
    """Seconds from asking for a replica until it runs, of which a new machine may take most; it is
    measured once the stage has grown. The longer, the longer a burst must be to be worth it."""
    upscale_delay_s: NonNegativeFloat = 5.0
    """Seconds of too much load before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 300.0
    """Seconds of too little load before replicas are taken away."""
    downscale_to_zero_delay_s: NonNegativeFloat | None = None
    """Seconds without any work before the last replica goes; left out, `downscale_delay_s`."""

    @model_validator(mode="after")
    def _check_utilisation(self) -> Self:
        if self.min_utilisation > self.max_utilisation:
            raise self._reject(
                "min_utilisation",
                f"{self.min_utilisation:g} is above max_utilisation {self.max_utilisation:g};"
                f" lower it to {self.max_utilisation:g}",
            )
        return self

    def rule(self) -> dict[str, Any]:
        """The fields of `deployments.scaling.rule.ScalingRule`, as JSON."""
        to_zero = self.downscale_to_zero_delay_s
        return {
            **self.model_dump(exclude={"initial_replicas"}),
            "downscale_to_zero_delay_s": self.downscale_delay_s if to_zero is None else to_zero,
        }

    @property
    def look_back_s(self) -> float:
        """Seconds over which it is counted what comes."""
        least, most = _LOOK_BACK_S
        return min(max(self.start_up_s, least), most)

    def environment(self) -> dict[str, str]:
        """What a replica's process must find in its environment, as Serve takes it from there."""
        return {
            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": str(_REPORT_EVERY_S),
            "RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR": str(
                _REPORT_EVERY_S / self.look_back_s
            ),
        }

    def serve_config(self) -> dict[str, Any]:
        """For `ray.serve.config.AutoscalingConfig`: bounds are Serve's, delays the policy's own."""
        return {
            **self._bounds(),
            "look_back_period_s": self.look_back_s,
            # Serve calls it deprecated, in favour of a variable that its callers do not read yet.
            "metrics_interval_s": _REPORT_EVERY_S,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 0.0,
            "policy": {"policy_function": _POLICY, "policy_kwargs": self.rule()},
        }


def reported_targets(options: AutoscalingOptions | None) -> dict[str, float]:
    """What replicas report beside their work: the policy goes by it, as it may change in place."""
    return {} if options is None else {"target_wait_s": options.target_wait_s}
