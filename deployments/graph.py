"""The graph: one job through the stages, from prompt to files.

    encode (prompt, negative prompt) ── denoise ── decode ── classify ── finish
                 once per request      └───────── once per image ─────────┘

Runs in the ingress, so it imports no torch, and no tensor passes through it: what one stage
returns is handed to the next by reference. Only verdicts, counts and finished files are awaited.
Knows retries, cancellation and errors; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.advice import PromptFacts, warnings_for
from deployments.calls import Calls, all_or_none, is_ready
from deployments.failures import ReplicaLost
from deployments.names import StageName
from deployments.parameters import with_seed
from pipelines.catalog import SIZE_MULTIPLE
from pipelines.contracts import (
    FinishedImage,
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    LatentJob,
    SafetyVerdict,
    TextPrompt,
    Usage,
)
from pipelines.errors import ContentPolicyViolation, StageFailed

logger = logging.getLogger("ray.serve")

MAX_ATTEMPTS = 3
"""Times that one image is tried, the first included, when replicas die under it."""

READY_TIMEOUT_S = 3.0

_RETRY_PAUSE_S = 0.2
"""Before a retry, so that the dead replica has left the router."""

T = TypeVar("T")
Prompts = tuple[DeploymentResponse[Any], ...]
"""The encodings of the prompt and, with true guidance, of the negative prompt; by reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHandles:
    """The five stages as Serve handles; fields are named as in `StagesConfig`."""

    text_encoder: DeploymentHandle
    denoiser: DeploymentHandle
    vae_decoder: DeploymentHandle
    safety: DeploymentHandle
    finisher: DeploymentHandle


class Graph:
    """Runs jobs. Holds no state of any job, so one instance serves all requests at once."""

    def __init__(self, handles: StageHandles) -> None:
        # By reference even where handles default to values: a prompt's tensor exceeds that limit.
        stages = {
            StageName[field.name.upper()]: getattr(handles, field.name).options(_by_reference=True)
            for field in fields(handles)
        }
        self._ready = {name: stage.options(method_name="ready") for name, stage in stages.items()}
        self._encode = stages[StageName.TEXT_ENCODER].options(method_name="encode")
        self._facts = stages[StageName.TEXT_ENCODER].options(method_name="facts")
        self._denoise = stages[StageName.DENOISER].options(method_name="denoise")
        self._decode = stages[StageName.VAE_DECODER].options(method_name="decode")
        self._classify = stages[StageName.SAFETY].options(method_name="classify")
        self._finish = stages[StageName.FINISHER].options(method_name="finish")

    async def generate(self, job: GenerationJob) -> GenerationResult:
        """All images of a request, or the first error, after which none of its work goes on.

        Raises ContentPolicyViolation (with `image_index`), DegenerateImage, InvalidRequest,
        NotReady, Overloaded, StageFailed. A replica that dies costs time, not the request: the
        image is drawn again, up to `MAX_ATTEMPTS` times, and the same seed gives the same image.
        """
        began = time.perf_counter()
        with Calls(job.request_id) as calls:
            prompts = self._start_encoding(calls, job.params)
            facts, *drawn = await all_or_none(
                self._read_facts(job, prompts),
                *(self._draw(job, index, prompts) for index in range(job.params.num_images)),
            )
        slowest = max(drawn, key=lambda image: image.seconds)
        return GenerationResult(
            images=tuple(image.file for image in drawn),
            usage=_usage(job.params, facts),
            warnings=warnings_for(job.params, *facts),
            timings={**slowest.file.timings, "total": time.perf_counter() - began},
        )

    async def ready(self) -> Mapping[str, bool]:
        """By deployment name: whether the stage answers within `READY_TIMEOUT_S`."""
        answers = await asyncio.gather(
            *(is_ready(name, self._ready[name], timeout_s=READY_TIMEOUT_S) for name in self._ready)
        )
        return {str(name): answer for name, answer in zip(self._ready, answers, strict=True)}

    def _start_encoding(self, calls: Calls, params: GenerationParams) -> Prompts:
        texts = [params.prompt]
        if params.uses_true_cfg:
            texts.append(params.negative_prompt or "")
        return tuple(
            calls.start(
                StageName.TEXT_ENCODER,
                self._encode,
                TextPrompt(prompt=text, max_sequence_length=params.max_sequence_length),
            )
            for text in texts
        )

    async def _read_facts(self, job: GenerationJob, shared: Prompts) -> list[PromptFacts]:
        """What the encoder knows of each prompt, without its tensors."""

        async def attempt(number: int) -> list[PromptFacts]:
            with Calls(job.request_id) as calls:
                prompts = shared if number == 0 else self._start_encoding(calls, job.params)
                waiting = [
                    calls.result(StageName.TEXT_ENCODER, self._facts, prompt) for prompt in prompts
                ]
                return await all_or_none(*waiting)

        return await _retried(job, attempt)

    async def _draw(self, job: GenerationJob, index: int, shared: Prompts) -> Drawn:
        """One image of the request, from noise to file."""
        work_id = f"{job.request_id}/{index}/{uuid.uuid4().hex}"

        async def attempt(number: int) -> FinishedImage:
            with Calls(job.request_id) as calls:
                # The encodings may have died with their replica; the encoder's cache is cheap.
                prompts = shared if number == 0 else self._start_encoding(calls, job.params)
                latent_job = LatentJob.of(
                    job.params, index, group=job.request_id, work_id=f"{work_id}/{number}"
                )
                return await self._run_image(calls, job, index, latent_job, prompts)

        began = time.perf_counter()
        file = await _retried(job, attempt)
        return Drawn(file, time.perf_counter() - began)

    async def _run_image(
        self, calls: Calls, job: GenerationJob, index: int, latent_job: LatentJob, prompts: Prompts
    ) -> FinishedImage:
        latents = calls.start(StageName.DENOISER, self._denoise, latent_job, *prompts)
        image = calls.start(StageName.VAE_DECODER, self._decode, latents)
        verdict = await calls.result(StageName.SAFETY, self._classify, image)
        _refuse_if_flagged(verdict, index)
        file = await calls.result(StageName.FINISHER, self._finish, image, _finish_spec(job, index))
        return replace(file, timings={**file.timings, **verdict.timings})


class Drawn(NamedTuple):
    """A finished image, and the seconds from its start."""

    file: FinishedImage
    seconds: float


async def _retried(job: GenerationJob, attempt: Callable[[int], Awaitable[T]]) -> T:
    """The result of `attempt`, given its number, tried again when a replica was lost."""
    for number in range(MAX_ATTEMPTS):
        try:
            return await attempt(number)
        except ReplicaLost as lost:
            logger.warning(
                "request %s: a replica of %s was lost in attempt %d of %d",
                job.request_id,
                lost.stage,
                number + 1,
                MAX_ATTEMPTS,
            )
            if number + 1 == MAX_ATTEMPTS:
                raise StageFailed(
                    f"{lost.stage} failed {MAX_ATTEMPTS} times on this request", stage=lost.stage
                ) from None
        await asyncio.sleep(_RETRY_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def _finish_spec(job: GenerationJob, index: int) -> FinishSpec:
    seed = job.params.seed + index
    return replace(job.finish, seed=seed, parameters=with_seed(job.finish.parameters, seed))


def _refuse_if_flagged(verdict: SafetyVerdict, index: int) -> None:
    if verdict.flagged:
        raise ContentPolicyViolation(
            f"image {index} was refused by the image classifier: {verdict.category}",
            stage="image",
            category=verdict.category,
            score=verdict.score,
            threshold=verdict.threshold,
            image_index=index,
        )


def _usage(params: GenerationParams, facts: Sequence[PromptFacts]) -> Usage:
    image_tokens = (params.height // SIZE_MULTIPLE) * (params.width // SIZE_MULTIPLE)
    return Usage(
        input_tokens=sum(item.num_tokens for item in facts),
        output_tokens=params.num_images * image_tokens,
    )
