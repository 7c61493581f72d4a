"""The graph of fused stages, seen from the ingress. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.attempts import accepted, retried
from deployments.calls import Calls, is_ready
from deployments.graph import READY_TIMEOUT_S
from deployments.names import StageName
from pipelines.contracts import GenerationJob, GenerationResult


class RemoteGraph:
    """Runs jobs on the replicas of `Fused`."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        # By reference even where handles default to values: the files may exceed that limit.
        self._generate = handle.options(method_name="generate", _by_reference=True)
        self._ready = handle.options(method_name="ready")

    async def generate(self, job: GenerationJob) -> GenerationResult:
        """As `Graph.generate`; when a replica dies, its requests begin anew on another."""

        async def attempt(number: int) -> GenerationResult:
            terms = job.terms if number == 0 else accepted(job.terms)
            with Calls(job.request_id) as calls:
                return await calls.result(
                    StageName.FUSED, self._generate, replace(job, terms=terms)
                )

        return await retried(job.request_id, attempt)

    async def ready(self) -> Mapping[str, bool]:
        """Whether a replica answers within `READY_TIMEOUT_S`."""
        answer = await is_ready(StageName.FUSED, self._ready, timeout_s=READY_TIMEOUT_S)
        return {str(StageName.FUSED): answer}
