from __future__ import annotations

from typing import Any

import pytest

from deployments.graph.warnings import warnings_for
from deployments.wire.packed import PromptFacts
from pipelines.contracts import GenerationParams
from pipelines.prompts.unread_text import DroppedText, UnreadText

FITS = PromptFacts(num_tokens=5)
CUT = PromptFacts(
    num_tokens=16, unread=UnreadText(dropped=(DroppedText("T5", "and a tail", max_tokens=16),))
)


def _params(**changes: Any) -> GenerationParams:
    values: dict[str, Any] = {
        "prompt": "a cat",
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "seed": 1,
        "max_sequence_length": 16,
    }
    return GenerationParams(**{**values, **changes})


def test_nothing_to_say() -> None:
    assert warnings_for(_params(), FITS) == ()
    params = _params(negative_prompt="", true_cfg_scale=2.0)
    assert warnings_for(params, FITS, FITS) == ()


def test_the_dropped_tail_is_quoted() -> None:
    (warning,) = warnings_for(_params(), CUT)
    assert warning.startswith("prompt: longer than 16 tokens")
    assert '"and a tail"' in warning


def test_a_long_tail_is_quoted_in_part() -> None:
    (warning,) = warnings_for(
        _params(),
        PromptFacts(
            num_tokens=1,
            unread=UnreadText(dropped=(DroppedText("T5", "x" * 30_000, max_tokens=16),)),
        ),
    )
    assert len(warning) < 200


def test_both_tails() -> None:
    params = _params(negative_prompt="n", true_cfg_scale=2.0)
    first, second = warnings_for(params, CUT, CUT)
    assert first.startswith("prompt:")
    assert second.startswith("negative_prompt:")


def test_each_kind_of_unread_text_is_quoted() -> None:
    unread = UnreadText(
        dropped=(
            DroppedText("T5", "a Tail", max_tokens=16),
            DroppedText("CLIP", "with a Tail"),
        ),
        unknown_words=("红色", "🦊", *(f"zz{index}" for index in range(9))),
        marks=("</s>",),
    )
    params = _params(negative_prompt="n", true_cfg_scale=2.0)
    for field, facts in {
        "prompt": (PromptFacts(num_tokens=1, unread=unread), FITS),
        "negative_prompt": (FITS, PromptFacts(num_tokens=1, unread=unread)),
    }.items():
        dropped, pooled, unknown, marks = warnings_for(params, *facts)
        assert dropped.startswith(f"{field}: longer than 16 tokens; the T5 encoder did not read")
        assert dropped.endswith('from "a Tail"')
        assert pooled.startswith(f"{field}: longer than the CLIP encoder reads")
        assert pooled.endswith('from "with a Tail"')
        assert unknown.startswith(f'{field}: the model has no token for "红色", "🦊", "zz0"')
        assert '"zz5" and 3 more,' in unknown
        assert marks.startswith(f'{field}: "</s>" was read as a mark')


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"negative_prompt": "blur"}, "negative_prompt"),
        ({"negative_prompt": "blur", "true_cfg_scale": 0.5}, "negative_prompt"),
        ({"true_cfg_scale": 4.0}, "true_cfg_scale"),
    ],
)
def test_guidance_without_effect(changes: dict[str, Any], field: str) -> None:
    (warning,) = warnings_for(_params(**changes), FITS)
    assert warning.startswith(f"{field}: ")
