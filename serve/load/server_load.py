"""ServerLoad: the answer of `GET /load`, read by `sluice top`. What is not known is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeploymentLoad(_Part):
    """A deployment: `status` and the states of its `replicas` are Serve's words."""

    name: str
    status: str
    replicas: Mapping[str, int]


class DenoiserLoad(_Part):
    """A denoiser replica: images that wait or run, and seconds until it has done them.

    `tick_tokens` and `tick_s` are those of a mean tick of the last seconds, null where there was
    none. Past `knee_tokens`, `knee_s` packing more into a tick only makes everybody wait.
    """

    replica: str
    images: int
    queued_s: float
    tick_tokens: float | None = None
    tick_s: float | None = None
    knee_tokens: int | None = None
    knee_s: float | None = None


class RequestCounts(_Part):
    """Generations that ended lately, by outcome, and the images that are in flight now.

    Those of synchronous requests and of jobs that run; not of jobs that wait.
    """

    per_s: float
    outcomes: Mapping[str, int]
    images_in_flight: int


class DeadlineCounts(_Part):
    """What became of deadlines lately."""

    met: int
    missed: int
    refused: int


class TenantLoad(_Part):
    """A tenant: images in flight, and jobs that are not over; null where jobs are not counted."""

    tenant: str
    images_in_flight: int = 0
    queued_jobs: int | None = None
    running_jobs: int | None = None


class ServerLoad(_Part):
    """The application at Unix time `at`; "lately" is in the last `window_s` seconds.

    `ingress_replicas` of those that there are have told of their requests. `jobs` are those that
    are not over, by status.
    """

    object: Literal["load"] = "load"
    at: float
    window_s: float
    model: str
    ingress_replicas: int
    deployments: tuple[DeploymentLoad, ...] | None
    denoisers: tuple[DenoiserLoad, ...] | None
    requests: RequestCounts
    deadlines: DeadlineCounts
    jobs: Mapping[str, int] | None
    tenants: tuple[TenantLoad, ...]
