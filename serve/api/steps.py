"""How many steps a request asks for, and which of them may be left out: pure."""

from __future__ import annotations

from pipelines.catalog import ModelSpec
from pipelines.cuts import Cut, check_cuts
from pipelines.errors import InvalidRequest
from serve.api.schemas import ImageGenerationRequest
from serve.api.values import check_within
from serve.generation.plan import RequestedTerms, ResolvedQuality
from serve.settings.settings import Limits

QUALITY_STEPS: dict[ResolvedQuality, float] = {"low": 1.0, "medium": 1.0, "high": 1.5}
"""Steps of a quality, as a share of the model's default."""

SKIPPING_QUALITY: ResolvedQuality = "low"
"""The quality that takes some of its steps without a forward, by a plan that is always the same."""


def quality_steps(quality: ResolvedQuality, spec: ModelSpec) -> int:
    """Denoising steps of a quality preset, before the server's limit."""
    return max(1, round(QUALITY_STEPS[quality] * spec.num_inference_steps))


def chosen_steps(
    request: ImageGenerationRequest, spec: ModelSpec, limits: Limits, warnings: list[str]
) -> tuple[int, ResolvedQuality | None]:
    """Steps, and the quality that they are of, if one was chosen."""
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


def fewest_steps(
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


def shortened(
    request: ImageGenerationRequest,
    steps: int,
    quality: ResolvedQuality | None,
    *,
    takes_trades: bool,
    warnings: list[str],
) -> tuple[tuple[Cut, ...], bool]:
    """(cuts of `steps`, whether steps are skipped): of these and `min_steps` one at most. What is
    drawn from such pictures that none may be left out does not take any (`takes_trades`)."""
    by_quality = request.skip_steps is None and quality == SKIPPING_QUALITY
    if by_quality and not takes_trades:
        warnings.append("quality: all steps are run, as what is drawn from pictures needs them")
        by_quality = False
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
