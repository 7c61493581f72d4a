"""From a request as written to one with every value final: a pure function.

Each field is used, adjusted or refused with its name and what is allowed. What is adjusted has a
warning that begins with its name; one that says "used" after it is advice (`treatment.py`).
Knows the model's defaults and the server's limits; no HTTP, no clock, no random numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipelines.catalog import ModelSpec
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.errors import InvalidRequest, ModelNotFound, UnsupportedFeature
from pipelines.prompts.syntax import ParsedPrompt, parse_prompt
from pipelines.task_rules import check_task
from serve.api.pictures.drawn_from import Scene, drawn_from, task_of
from serve.api.pictures.picture import NO_PICTURES, Pictures
from serve.api.problems import Problems
from serve.api.schemas import ImageGenerationRequest
from serve.api.sizes import SizeRules
from serve.api.steps import chosen_steps, fewest_steps, shortened
from serve.api.values import check_number, check_within
from serve.api.weighting import check_words, weighs_words
from serve.generation.plan import Plan, RequestedTerms
from serve.settings.sections import MAX_PRIORITY, MIN_PRIORITY
from serve.settings.settings import Deadlines, Limits

MAX_SEED = 2**63 - 1
RANDOM_SEED = -1
"""What most tools send for a seed that is to be drawn at random."""
MAX_GUIDANCE = 100.0
MAX_PARTIAL_IMAGES = 3
"""Of one image, as OpenAI has it."""
MAX_IDENTIFIER_CHARS = 256


def normalise(
    request: ImageGenerationRequest,
    *,
    spec: ModelSpec,
    limits: Limits,
    deadlines: Deadlines,
    served_names: Sequence[str],
    random_seed: int,
    pictures: Pictures = NO_PICTURES,
    control_kinds: Collection[str] = (),
) -> Plan:
    """Settle every value of `request`; `random_seed` is used when it names none. `pictures` are
    those that it names, read; ControlNets here follow maps of `control_kinds`.

    Raises InvalidRequest, UnsupportedFeature or ModelNotFound, with `param` naming the field; of
    several mistakes all are told, and `param` is the first one's.
    """
    if request.model is not None and request.model not in served_names:
        raise ModelNotFound(
            f"model: {request.model[:80]!r} is not served here; served: {served_names[0]}",
            model=request.model[:80],
        )
    warnings, problems = list(request.notes), Problems()
    _refuse_unsupported(request, problems)
    if request.style is not None:
        warnings.append("style: not used, there are no style presets; say it in the prompt")
    problems.check(lambda: _check_streaming(request, warnings))
    for problem in pictures.problems:
        problems.add(problem)
    weighted = problems.check(lambda: weighs_words(request, spec))
    is_weighted = weighted.or_else(False)
    parsed = problems.check(
        lambda: _parsed(request, spec, limits, warnings, is_weighted=is_weighted)
    )
    chosen = problems.check(lambda: chosen_steps(request, spec, limits, warnings))
    steps = problems.check(lambda: chosen.value[0])
    scene = problems.check(
        lambda: Scene(
            parsed=parsed.or_else(ParsedPrompt(text="")),
            spec=spec,
            rules=SizeRules.of(spec, limits),
            control_kinds=control_kinds,
        )
    )
    task = problems.check(lambda: task_of(request, scene.value, warnings))
    drawn = problems.check(
        lambda: drawn_from(
            request,
            pictures,
            scene.value,
            task.value,
            steps=chosen.or_else((spec.num_inference_steps, None))[0],
            problems=problems,
            warnings=warnings,
        )
    )
    short = problems.check(
        lambda: shortened(
            request,
            *chosen.value,
            takes_trades=drawn.value.takes_trades,
            warnings=warnings,
        )
    )
    requested = problems.check(lambda: _requested_terms(request, deadlines))
    negative = problems.check(
        lambda: _true_cfg(
            request,
            parsed.value.negative,
            spec,
            limits,
            warnings,
            is_weighted=is_weighted,
        )
    )

    count = problems.check(lambda: check_within("n", request.n, 1, limits.max_images))
    guidance = problems.check(lambda: _guidance(request, spec, warnings))
    seed = problems.check(lambda: _seed(request, count.value, random_seed, warnings))
    min_steps = problems.check(
        lambda: fewest_steps(request, steps.value, requested.value, warnings)
    )
    finish = problems.check(lambda: _finish(request, seed.value, served_names[0], warnings))
    problems.tell()
    prompt, source = parsed.value.text, drawn.value
    cuts, skips_steps = short.value
    negative_prompt, true_cfg_scale = negative.value
    params = GenerationParams(
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=source.size.height,
        width=source.size.width,
        num_inference_steps=steps.value,
        guidance_scale=guidance.value,
        true_cfg_scale=true_cfg_scale,
        seed=seed.value,
        num_images=count.value,
        max_sequence_length=spec.max_sequence_length,
        prompt_weighting=is_weighted,
        min_inference_steps=min_steps.value,
        planned_cuts=cuts,
        skips_steps=skips_steps,
        family=spec.family,
        task=source.task,
        strength=source.strength,
        pictures=source.sources.uses,
    )
    # What is refused here as well has been told of above, in the request's own words, if at all.
    check_task(params, spec.tasks)
    return Plan(
        params=params,
        finish=replace(finish.value, pastes_back=source.pastes_back),
        requested=requested.value,
        recipes=source.sources.recipes,
        quality=chosen.value[1],
        revised_prompt=prompt if prompt != request.prompt else None,
        warnings=tuple(warnings),
    )


def _refuse_unsupported(request: ImageGenerationRequest, problems: Problems) -> None:
    if request.stream and request.response_format == "file":
        problems.add(
            InvalidRequest(
                "response_format: 'file' cannot stand beside stream, whose events hold base64;"
                " leave one of them out",
                param="response_format",
            )
        )
    if request.background == "transparent":
        problems.add(
            UnsupportedFeature(
                "background: this model draws opaque images; send 'opaque' or 'auto'",
                param="background",
            )
        )
    if request.moderation == "low":
        problems.add(
            UnsupportedFeature(
                "moderation: the operator sets how strict this server is; send 'auto'",
                param="moderation",
            )
        )
    for name in ("user", "safety_identifier"):
        value: str = getattr(request, name) or ""
        if len(value) > MAX_IDENTIFIER_CHARS:
            problems.add(
                InvalidRequest(
                    f"{name}: at most {MAX_IDENTIFIER_CHARS} characters, got {len(value)}",
                    param=name,
                )
            )


def _check_streaming(request: ImageGenerationRequest, warnings: list[str]) -> None:
    most = check_within("partial_images", request.partial_images, 0, MAX_PARTIAL_IMAGES)
    if most > 0 and not request.stream:
        warnings.append("partial_images: not used without stream")
    if request.stream and request.response_format == "url":
        warnings.append(
            "response_format: the events hold b64_json all the same, as OpenAI's do; those of"
            " finished images have a url too"
        )


def _parsed(
    request: ImageGenerationRequest,
    spec: ModelSpec,
    limits: Limits,
    warnings: list[str],
    *,
    is_weighted: bool,
) -> ParsedPrompt:
    """The prompt without its syntax; beside pictures it may be blank."""
    _check_length("prompt", request.prompt, limits.prompt_chars(spec))
    parsed = parse_prompt(
        request.prompt,
        param="prompt",
        has_picture=request.has_pictures,
        may_be_blank=request.has_pictures,
    )
    check_words(
        parsed.text,
        "prompt",
        is_weighted=is_weighted,
        may_be_blank=request.has_pictures,
        warnings=warnings,
    )
    return parsed


def _requested_terms(request: ImageGenerationRequest, deadlines: Deadlines) -> RequestedTerms:
    """What `request` says, else the server's defaults, by which nothing is refused.

    Raises InvalidRequest naming `deadline_ms` or `priority`.
    """
    deadline_ms, priority = request.deadline_ms, request.priority
    if deadline_ms is not None:
        check_within("deadline_ms", deadline_ms, 1, deadlines.max_ms)
    if priority is not None:
        check_within("priority", priority, MIN_PRIORITY, MAX_PRIORITY)
    return RequestedTerms(
        deadline_ms=deadlines.default_ms if deadline_ms is None else deadline_ms,
        is_deadline_asked=deadline_ms is not None,
        refuses_late=deadline_ms is not None and deadlines.unreachable == "refuse",
        priority=deadlines.default_priority if priority is None else priority,
    )


def _guidance(request: ImageGenerationRequest, spec: ModelSpec, warnings: list[str]) -> float:
    if request.guidance_scale is None:
        return spec.guidance_scale
    value = check_number("guidance_scale", request.guidance_scale, MAX_GUIDANCE)
    if not spec.guidance_embeds and value != spec.guidance_scale:
        warnings.append(f"guidance_scale: not used, {spec.name} takes no guidance")
    return value if spec.guidance_embeds else spec.guidance_scale


def _true_cfg(
    request: ImageGenerationRequest,
    in_prompt: str | None,
    spec: ModelSpec,
    limits: Limits,
    warnings: list[str],
    *,
    is_weighted: bool,
) -> tuple[str | None, float]:
    """Negative prompt, which may stand behind `--no` in the prompt, and scale; each without the
    other is taken out, with a warning."""
    scale = check_number("true_cfg_scale", request.true_cfg_scale, MAX_GUIDANCE)
    negative, field, name = request.negative_prompt, "negative_prompt", "negative_prompt"
    if in_prompt is not None:
        if negative is not None:
            raise InvalidRequest(
                "negative_prompt: contradicts --no in the prompt; leave one of them out",
                param="negative_prompt",
            )
        negative, field, name = in_prompt, "prompt", "prompt: --no"
    if negative is None:
        if scale > 1.0:
            warnings.append("true_cfg_scale: not used without negative_prompt, which may be empty")
        return None, 1.0
    _check_length(field, negative, limits.prompt_chars(spec))
    if scale <= 1.0:
        warnings.append(f"{name}: not used unless true_cfg_scale is above 1")
        return None, 1.0
    check_words(negative, field, is_weighted=is_weighted, may_be_blank=True, warnings=warnings)
    return negative, scale


def _seed(
    request: ImageGenerationRequest, count: int, random_seed: int, warnings: list[str]
) -> int:
    if request.seed == RANDOM_SEED:
        warnings.append("seed: -1 stands for a random one; the answer says which was drawn")
    if request.seed is None or request.seed == RANDOM_SEED:
        return random_seed
    most = MAX_SEED - (count - 1)
    return check_within("seed", request.seed, 0, most, or_else=f"{RANDOM_SEED} for a random one")


def _finish(
    request: ImageGenerationRequest, seed: int, model: str, warnings: list[str]
) -> FinishSpec:
    quality = check_within("output_compression", request.output_compression, 0, 100)
    if request.output_format == "png" and "output_compression" in request.model_fields_set:
        warnings.append("output_compression: not used, png is lossless")
    if request.return_stage_metrics and request.response_format == "file":
        warnings.append(
            "return_stage_metrics: the header server-timing has them, a file has no place for them"
        )
    return FinishSpec(
        output_format=request.output_format,
        output_compression=quality,
        inline=request.stream or request.response_format != "url",
        store=request.response_format in (None, "url"),
        seed=seed,
        model=model,
    )


def _check_length(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidRequest(f"{name}: at most {most} characters, got {len(text)}", param=name)
