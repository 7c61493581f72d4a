"""Warnings about a request that was served: what of it had no effect, in its own words. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deployments.wire.packed import PromptFacts
from pipelines.contracts import GenerationParams
from pipelines.prompts.markup import quoted
from pipelines.prompts.unread_text import DroppedText, UnreadText

_QUOTED_CHARACTERS = 80


def warnings_for(
    params: GenerationParams, prompt: PromptFacts, negative_prompt: PromptFacts | None = None
) -> tuple[str, ...]:
    """One sentence per part that had no effect, each starting with the field's name.

    `negative_prompt` is given only where one was encoded, so with `params.uses_true_cfg`.
    """
    found = unread_warnings("prompt", prompt.unread)
    if negative_prompt is not None:
        found += unread_warnings("negative_prompt", negative_prompt.unread)
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


def untouched_warnings(untouched: Iterable[bool]) -> tuple[str, ...]:
    """Of a request's images, whether each is the input as it came."""
    if not any(untouched):
        return ()
    return (
        "mask: covers nothing to draw anew, so the image is the input's own and nothing was drawn;"
        " mark what is to change",
    )


def unread_warnings(field: str, unread: UnreadText) -> list[str]:
    """One sentence per kind of text in `field` that the encoders did not take in."""
    found = [f"{field}: longer than {_dropped(each)}" for each in unread.dropped]
    if unread.unknown_words:
        found.append(
            f"{field}: the model has no token for {quoted(unread.unknown_words)}, and reads each as"
            " unknown"
        )
    if unread.marks:
        found.append(
            f"{field}: {quoted(unread.marks)} was read as a mark of the text encoder's own, not as"
            " text"
        )
    return found


def _dropped(dropped: DroppedText) -> str:
    end = f"did not read the end, from {_excerpt(dropped.text)}"
    if dropped.max_tokens is None:
        return f"the {dropped.encoder} encoder reads; it {end}"
    return f"{dropped.max_tokens} tokens; the {dropped.encoder} encoder {end}"


def _excerpt(text: str) -> str:
    return f'"{text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"}"'
