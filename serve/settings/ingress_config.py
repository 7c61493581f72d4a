"""The section of the settings about the ingress deployment: how many replicas, and where."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from deployments.options.stages import Options, RequestAutoscalingOptions


class IngressConfig(Options):
    """How many ingress replicas there are, and where they run."""

    section: ClassVar[str] = "ingress"

    num_replicas: int | None = Field(default=None, ge=1)
    """A fixed number of replicas; left out (and without `autoscaling`), 1."""

    autoscaling: RequestAutoscalingOptions | None = None
    """Replicas by the requests in flight, instead of `num_replicas`."""

    num_cpus: float = Field(default=0.1, gt=0)
    """CPUs reserved by each replica."""

    label_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels that a replica needs, as in `cluster.yaml`."""

    graceful_shutdown_timeout_s: float | None = Field(default=None, ge=0)
    """Seconds that a replica may use to answer what it has when it is taken away. Left out,
    `limits.request_timeout_s`: no answer takes longer, so none is lost."""

    max_surge_percent: int = Field(default=0, ge=0, le=100)
    """As for stages: replicas that an update may start before it takes old ones away."""

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.num_replicas is not None and self.autoscaling is not None:
            raise self._reject("num_replicas", "cannot stand beside autoscaling; leave one out")
        return self
