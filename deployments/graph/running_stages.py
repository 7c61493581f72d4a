"""What the replicas that run now would put into a receipt. Imports no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.broadcast import ask_all_replicas
from pipelines.provenance import Provenance, joined

ASK_TIMEOUT_S = 3.0
_HEARS_WITHIN_S = 1.0
_RETRY_S = 0.1


class Running(NamedTuple):
    """The stages that run, each once: two of one part of the model while a rollout mixes versions,
    none while it sleeps. `silent` replicas have not said what they are."""

    stages: Provenance = ()
    silent: int = 0


class RunningStages:
    """Asks all replicas of the deployments that compute with a part of the model."""

    def __init__(self, handles: Sequence[DeploymentHandle[Any]]) -> None:
        self._handles = tuple(handles)

    async def ask(self) -> Running:
        """What each of them is, as far as they answer within `ASK_TIMEOUT_S`."""
        asked = await asyncio.gather(*(_ask_all(handle) for handle in self._handles))
        answers = [answer for each in asked for answer in each]
        known = [answer for answer in answers if not isinstance(answer, BaseException)]
        return Running(joined(*known), len(answers) - len(known))


async def _ask_all(handle: DeploymentHandle[Any]) -> list[Any]:
    """The answers of all replicas, or errors in their place; none where none runs."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _HEARS_WITHIN_S
    while True:
        try:
            return await ask_all_replicas(handle, "provenance", timeout_s=ASK_TIMEOUT_S)
        except DeploymentUnavailableError:
            if loop.time() > until:
                return []
            await asyncio.sleep(_RETRY_S)  # this process may have just begun to hear of replicas
        except (TimeoutError, RayError, RayServeException) as error:
            return [error]
