"""From a request as written to one with every value final: a pure function.

Each field is used, adjusted or refused with its name and what is allowed. What is adjusted has a
warning that begins with its name; one that says "used" after it is advice (`treatment.py`).
Knows the model's defaults and the server's limits; no HTTP, no clock, no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.catalog import ModelSpec
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut, check_cuts
from pipelines.errors import InvalidRequest, ModelNotFound, UnsupportedFeature
from pipelines.prompts.markup import markup_warnings
from pipelines.prompts.syntax import parse_prompt
from serve.api.problems import Problems
from serve.api.schemas import ImageGenerationRequest
from serve.api.sizes import Ratio, Size, SizeRules
from serve.api.values import check_number, check_within
from serve.generation.plan import Plan, RequestedTerms, ResolvedQuality
from serve.settings.sections import MAX_PRIORITY, MIN_PRIORITY
from serve.settings.settings import Deadlines, Limits

QUALITY_STEPS: dict[ResolvedQuality, float] = {"low": 1.0, "medium": 1.0, "high": 1.5}
"""Steps of a quality, as a share of the model's default."""

SKIPPING_QUALITY: ResolvedQuality = "low"
"""The quality that takes some of its steps without a forward, by a plan that is always the same."""

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
) -> Plan:
    """Settle every value of `request`; `random_seed` is used when it names none.

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
    drawn = problems.check(lambda: _prompt_and_size(request, spec, limits, warnings))
    chosen = problems.check(lambda: _steps(request, spec, limits, warnings))
    shortened = problems.check(lambda: _shortened(request, *chosen.value))
    requested = problems.check(lambda: _requested_terms(request, deadlines))
    negative = problems.check(lambda: _true_cfg(request, spec, limits, warnings))
    count = problems.check(lambda: check_within("n", request.n, 1, limits.max_images))
    guidance = problems.check(lambda: _guidance(request, spec, warnings))
    seed = problems.check(lambda: _seed(request, count.value, random_seed, warnings))
    min_steps = problems.check(
        lambda: _min_steps(request, chosen.value[0], requested.value, warnings)
    )
    finish = problems.check(lambda: _finish(request, seed.value, served_names[0], warnings))
    problems.tell()
    prompt, size = drawn.value
    steps, quality = chosen.value
    cuts, skips_steps = shortened.value
    negative_prompt, true_cfg_scale = negative.value
    params = GenerationParams(
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=size.height,
        width=size.width,
        num_inference_steps=steps,
        guidance_scale=guidance.value,
        true_cfg_scale=true_cfg_scale,
        seed=seed.value,
        num_images=count.value,
        max_sequence_length=spec.max_sequence_length,
        min_inference_steps=min_steps.value,
        planned_cuts=cuts,
        skips_steps=skips_steps,
        family=spec.family,
    )
    return Plan(
        params=params,
        finish=finish.value,
        requested=requested.value,
        quality=quality,
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


def _prompt_and_size(
    request: ImageGenerationRequest, spec: ModelSpec, limits: Limits, warnings: list[str]
) -> tuple[str, Size]:
    """The prompt without its syntax, and the size, which an `--ar` in it may decide."""
    _check_length("prompt", request.prompt, limits.prompt_chars(spec))
    parsed = parse_prompt(request.prompt, param="prompt")
    warnings += markup_warnings("prompt", parsed.text)
    ratios = [Ratio.in_prompt(parsed.aspect_ratio)] if parsed.aspect_ratio else []
    if request.aspect_ratio is not None:
        ratios.append(Ratio.parse(request.aspect_ratio))
    size = SizeRules.of(spec, limits).choose(request.size, ratios)
    if spec.trained_sizes and size not in spec.trained_sizes:
        warnings.append(_untrained(request, ratios, size, spec))
    return parsed.text, size


def _untrained(
    request: ImageGenerationRequest, ratios: Sequence[Ratio], size: Size, spec: ModelSpec
) -> str:
    """Advice about a size that is used all the same, under the field that asks for it."""
    known = ", ".join(str(Size(*each)) for each in spec.trained_sizes)
    advice = f"{spec.name} draws worse at sizes other than {known}"
    if request.size != "auto" or not ratios:
        return f"size: used; {advice}"
    return f"{ratios[0].field}: used; {ratios[0].written} is {size} here, and {advice}"


def _steps(
    request: ImageGenerationRequest, spec: ModelSpec, limits: Limits, warnings: list[str]
) -> tuple[int, ResolvedQuality | None]:
    if request.num_inference_steps is not None:
        if request.quality != "auto":
            warnings.append("quality: not used, num_inference_steps was given")
        steps = check_within(
            "num_inference_steps", request.num_inference_steps, 1, limits.max_steps
        )
        return steps, None
    quality = "medium" if request.quality == "auto" else request.quality
    wanted = quality_steps(quality, spec)
    steps = min(wanted, limits.max_steps)
    if steps < wanted:
        warnings.append(f"quality: {steps} steps instead of {wanted}, this server's limit")
    return steps, quality


def _min_steps(
    request: ImageGenerationRequest, steps: int, requested: RequestedTerms, warnings: list[str]
) -> int | None:
    """The fewest steps allowed, None where all are to be run."""
    if request.min_steps is None:
        return None
    fewest = check_within("min_steps", request.min_steps, 1, steps)
    if requested.deadline_ms is None:
        warnings.append("min_steps: not used without deadline_ms")
        return None
    return fewest if fewest < steps else None


def _shortened(
    request: ImageGenerationRequest, steps: int, quality: ResolvedQuality | None
) -> tuple[tuple[Cut, ...], bool]:
    """(cuts of `steps`, whether steps are skipped): of these and `min_steps` one at most."""
    by_quality = request.skip_steps is None and quality == SKIPPING_QUALITY
    skips = by_quality or bool(request.skip_steps)
    cuts = tuple(Cut(*pair) for pair in request.step_cuts or ())
    for name, is_asked in (("min_steps", request.min_steps is not None), ("step_cuts", bool(cuts))):
        if is_asked and skips:
            other = f"quality '{quality}'" if by_quality else "skip_steps"
            raise InvalidRequest(
                f"{name}: cannot stand beside {other}, which skips steps in a way of its own;"
                " leave one of them out",
                param=name,
            )
    if cuts and request.min_steps is not None:
        raise InvalidRequest(
            "step_cuts: cannot stand beside min_steps, which lets the server cut; leave one of"
            " them out",
            param="step_cuts",
        )
    return _checked_cuts(cuts, steps), skips


def _checked_cuts(cuts: tuple[Cut, ...], steps: int) -> tuple[Cut, ...]:
    try:
        check_cuts(steps, cuts)
    except ValueError as error:
        raise InvalidRequest(f"step_cuts: {error}", param="step_cuts") from error
    return cuts


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


def quality_steps(quality: ResolvedQuality, spec: ModelSpec) -> int:
    """Denoising steps of a quality preset, before the server's limit."""
    return max(1, round(QUALITY_STEPS[quality] * spec.num_inference_steps))


def _guidance(request: ImageGenerationRequest, spec: ModelSpec, warnings: list[str]) -> float:
    if request.guidance_scale is None:
        return spec.guidance_scale
    value = check_number("guidance_scale", request.guidance_scale, MAX_GUIDANCE)
    if not spec.guidance_embeds and value != spec.guidance_scale:
        warnings.append(f"guidance_scale: not used, {spec.name} takes no guidance")
    return value if spec.guidance_embeds else spec.guidance_scale


def _true_cfg(
    request: ImageGenerationRequest, spec: ModelSpec, limits: Limits, warnings: list[str]
) -> tuple[str | None, float]:
    """Negative prompt and scale; each without the other is taken out, with a warning."""
    scale = check_number("true_cfg_scale", request.true_cfg_scale, MAX_GUIDANCE)
    if request.negative_prompt is None:
        if scale > 1.0:
            warnings.append("true_cfg_scale: not used without negative_prompt, which may be empty")
        return None, 1.0
    _check_length("negative_prompt", request.negative_prompt, limits.prompt_chars(spec))
    if scale <= 1.0:
        warnings.append("negative_prompt: not used unless true_cfg_scale is above 1")
        return None, 1.0
    warnings += markup_warnings("negative_prompt", request.negative_prompt)
    return request.negative_prompt, scale


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
