"""Warnings about a request that was served: what of it had no effect. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.contracts import GenerationParams

_QUOTED_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """What is to be told of an encoded prompt: the tokens used, and the tail that did not fit."""

    num_tokens: int
    dropped_text: str


def warnings_for(
    params: GenerationParams, prompt: PromptFacts, negative_prompt: PromptFacts | None = None
) -> tuple[str, ...]:
    """One sentence per part that had no effect, each starting with the field's name.

    `negative_prompt` is given only where one was encoded, so with `params.uses_true_cfg`.
    """
    found: list[str] = []
    if prompt.dropped_text:
        found.append(_dropped("prompt", prompt.dropped_text, params))
    if negative_prompt is not None and negative_prompt.dropped_text:
        found.append(_dropped("negative_prompt", negative_prompt.dropped_text, params))
    if not params.uses_true_cfg:
        if params.negative_prompt is not None:
            found.append(
                f"negative_prompt: ignored, because true_cfg_scale is {params.true_cfg_scale:g};"
                " set it above 1, for example 4"
            )
        elif params.true_cfg_scale > 1.0:
            found.append(
                f"true_cfg_scale: {params.true_cfg_scale:g} has no effect without a negative_prompt"
            )
    return tuple(found)


def _dropped(field: str, tail: str, params: GenerationParams) -> str:
    quoted = tail if len(tail) <= _QUOTED_CHARACTERS else tail[:_QUOTED_CHARACTERS] + "…"
    return (
        f"{field}: longer than {params.max_sequence_length} tokens; the end was not used,"
        f' from "{quoted}"'
    )
