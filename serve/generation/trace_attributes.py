"""What a generation's trace says of it, in the terms of OpenTelemetry where it has them.

`gen_ai.*` are its conventions for generative models; ours are `sluice.*`. Never a prompt, unless
`tracing.record_prompts` says so.
"""

from __future__ import annotations

from pipelines.tracing.spans import Attribute
from serve.generation.plan import Plan, RequestedTerms
from serve.generation.sharing import Answer


def request_attributes(plan: Plan, model: str, *, with_prompts: bool) -> dict[str, Attribute]:
    """Model, number, seed, size, steps and guidance of the images that are to be drawn."""
    params = plan.params
    found: dict[str, Attribute] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "sluice",
        "gen_ai.output.type": "image",
        "gen_ai.request.model": model,
        "gen_ai.request.choice.count": params.num_images,
        "gen_ai.request.seed": params.seed,
        "sluice.size": f"{params.width}x{params.height}",
        "sluice.steps": params.num_inference_steps,
        "sluice.guidance_scale": params.guidance_scale,
        "sluice.true_cfg": params.uses_true_cfg,
    }
    if with_prompts:
        found["sluice.prompt"] = params.prompt
        if params.negative_prompt is not None:
            found["sluice.negative_prompt"] = params.negative_prompt
    return found


def requested_terms_attributes(requested: RequestedTerms) -> dict[str, Attribute]:
    """Priority and deadline of a request, the deadline only where there is one."""
    found: dict[str, Attribute] = {"sluice.priority": requested.priority}
    if requested.deadline_ms is not None:
        found["sluice.deadline_ms"] = requested.deadline_ms
    return found


def answer_attributes(answer: Answer) -> dict[str, Attribute]:
    """Tokens, forwards, device seconds and bytes of the answer, and if it was kept or shared."""
    result = answer.result
    found: dict[str, Attribute] = {
        "gen_ai.usage.input_tokens": result.usage.input_tokens,
        "gen_ai.usage.output_tokens": result.usage.output_tokens,
        "sluice.steps_run": sum(image.steps_run or 0 for image in result.images),
        "sluice.device_seconds": round(result.usage.device_seconds, 6),
        "sluice.bytes": sum(image.num_bytes for image in result.images),
    }
    if answer.source is not None:
        found["sluice.cache"] = answer.source
    return found
