"""What a denoiser was given beside its job, and tells of with its latents."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.wire.packed import PackedConditioning, PackedPicture, PromptFacts
from pipelines.provenance import Provenance, joined
from pipelines.tracing.spans import Timings


def prompt_facts(*conditionings: PackedConditioning | None) -> tuple[PromptFacts, ...]:
    """What the graph tells of the prompts, so that it need not ask the encoder."""
    return tuple(
        PromptFacts(num_tokens=each.num_tokens, unread=each.unread)
        for each in conditionings
        if each is not None
    )


def picture_timings(pictures: Sequence[PackedPicture]) -> Timings:
    """Those of the picture that took longest: all were encoded at once."""
    if not pictures:
        return {}
    return dict(max(pictures, key=lambda each: sum(each.timings.values())).timings)


def encoded_by(*given: PackedConditioning | PackedPicture | None) -> Provenance:
    """The stages that have encoded this."""
    return joined(*(each.drawn_by for each in given if each is not None))
