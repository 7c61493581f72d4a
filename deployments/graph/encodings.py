"""What a denoiser is given beside its job: prompts and pictures, encoded, by reference."""

from __future__ import annotations

from typing import Any, NamedTuple

from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.graph.calls import Calls
from deployments.names import StageName
from pipelines.contracts import GenerationJob, TextPrompt
from pipelines.tasks import Task

Responses = tuple[DeploymentResponse[Any], ...]


class Encodings(NamedTuple):
    """Calls to encoders: of the prompt and, with true guidance, of the negative prompt; and of the
    pictures."""

    prompts: Responses
    pictures: Responses

    @property
    def arguments(self) -> tuple[DeploymentResponse[Any] | None, ...]:
        """As a denoiser takes them: two prompts, of which the second may be left out where nothing
        comes after it."""
        if not self.pictures:
            return self.prompts
        return (*self.prompts, *((None,) * (2 - len(self.prompts))), *self.pictures)


def start_encoding(calls: Calls, encode: DeploymentHandle, job: GenerationJob) -> Responses:
    """The encodings of a job's prompts, by the handle `encode`. A variation without a prompt has
    none, which is not an empty one."""
    params = job.params
    texts = [params.prompt]
    if params.uses_true_cfg:
        texts.append(params.negative_prompt or "")
    return tuple(
        calls.start(
            StageName.TEXT_ENCODER,
            encode,
            TextPrompt(
                prompt=text,
                max_sequence_length=params.max_sequence_length,
                tenant=job.terms.tenant,
                is_blank=params.task is Task.VARIATION and not text,
                is_weighted=params.prompt_weighting,
            ),
        )
        for text in texts
    )
