"""Profiles of a running application: its denoiser replicas, and the next ticks of one of them.

For an operator's process on a machine of the cluster. No route leads here: what a profile shows is
not for clients, and it makes their images wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray.exceptions
import ray.serve
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle
from ray.serve.schema import ApplicationStatusOverview, ReplicaState

from deployments.graph.failures import translate
from deployments.graph.request_log import RequestLog
from deployments.names import StageName
from deployments.replica_load import ReplicaLoad
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.errors import ConfigurationError, NotReady, RequestTimeout, SluiceError

_PROFILING = RequestLog(request_id="profile")
_LOOK_S = 10.0
"""Within which replicas say what they have to do."""
_WRITE_S = 300.0
"""Within which a profile is stopped, written and sent, after its ticks."""
_RETRY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class TickProfile:
    """`ticks` ticks of a replica, as `pipelines.engine.observe.recording` writes them.

    Of several `ranks`, those of rank 0.
    """

    replica: str
    ticks: int
    ranks: int
    trace: bytes


class Denoisers:
    """The denoiser replicas of an application, whether stages are split or fused."""

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self._name = name
        self._handle = handle.options(_by_reference=True)
        # Kept: Ray ends the process if a large answer is let go of while it still hears of it.
        self._responses: list[DeploymentBroadcastResponse] = []

    @classmethod
    def of(cls, application: str) -> Self:
        """Those of an application on the cluster that this process is connected to.

        Raises ConfigurationError when there is no such application, NotReady when no replica runs.
        """
        running = ray.serve.status().applications
        if application not in running:
            names = ", ".join(sorted(running)) or "none"
            raise ConfigurationError(
                f"no application is called {application!r} here; there are: {names}"
            )
        name = _deployment(application, running[application])
        return cls(name, ray.serve.get_deployment_handle(name, application))

    def loads(self) -> list[ReplicaLoad]:
        """What each has to do, the busiest first. Raises NotReady, or what the replicas raise."""
        answers = self._ask("load", timeout_s=_LOOK_S)
        loads = [answer for answer in answers if isinstance(answer, ReplicaLoad)]
        if not loads:
            raise self._gone(answers)
        return sorted(loads, key=lambda load: (-load.queued_s, load.replica))

    def profile(self, replica: str, request: ProfileRequest) -> TickProfile:
        """The next ticks of `replica`.

        Raises Overloaded while it is profiled already, RequestTimeout when no tick came in time,
        NotReady when it has gone, StageFailed.
        """
        timeout_s = request.timeout_s + _WRITE_S
        answers = self._ask("profile", request, replica=replica, timeout_s=timeout_s)
        for answer in answers:
            if isinstance(answer, TickProfile):
                return answer
        raise self._gone(answers)

    def _ask(self, method: str, *args: Any, timeout_s: float, **kwargs: Any) -> list[Any]:
        """The answers of all replicas, those that are errors too."""
        deadline = time.monotonic() + _LOOK_S
        while True:
            try:
                response = self._handle.broadcast(method, *args, **kwargs)
                self._responses.append(response)
                return response.results(timeout_s=timeout_s, return_exceptions=True)
            except DeploymentUnavailableError as error:
                if time.monotonic() > deadline:
                    raise _asleep(self._name) from error
                time.sleep(_RETRY_S)  # this process has just begun to hear of replicas
            except TimeoutError as error:
                raise RequestTimeout(f"{self._name} did not answer in {timeout_s:g} s") from error
            except (ray.exceptions.RayError, RayServeException) as error:
                raise self._translated(error) from error

    def _gone(self, answers: list[Any]) -> SluiceError:
        """Why none of these is the answer."""
        for answer in answers:
            if isinstance(answer, Exception):
                return self._translated(answer)
        return NotReady(f"this replica of {self._name} is not there any more")

    def _translated(self, error: BaseException) -> SluiceError:
        found = translate(error, stage=self._name, log=_PROFILING)
        if isinstance(found, SluiceError):
            return found
        return NotReady(f"a replica of {self._name} was lost meanwhile")


def chosen(loads: Sequence[ReplicaLoad], replica: str | None) -> ReplicaLoad:
    """The one called `replica`, or the first. Raises ConfigurationError if there is none."""
    for load in loads:
        if replica in (None, load.replica):
            return load
    names = ", ".join(load.replica for load in loads)
    raise ConfigurationError(f"no replica is called {replica!r}; there are: {names}")


def _deployment(application: str, status: ApplicationStatusOverview) -> str:
    """The name of the deployment that denoises, of which a replica runs."""
    for name in (StageName.DENOISER, StageName.FUSED):
        if (deployment := status.deployments.get(name)) is not None:
            if not deployment.replica_states.get(ReplicaState.RUNNING):
                raise _asleep(name)
            return name
    raise ConfigurationError(f"application {application!r} has no denoiser")


def _asleep(name: str) -> NotReady:
    return NotReady(
        f"no replica of {name} runs: it sleeps, or is starting; ask for an image, and profile then"
    )
