from __future__ import annotations

from typing import Any

import pytest

from deployments.graph.warnings import PromptFacts, warnings_for
from pipelines.contracts import GenerationParams

FITS = PromptFacts(num_tokens=5, dropped_text="")
CUT = PromptFacts(num_tokens=16, dropped_text="and a tail")


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
    (warning,) = warnings_for(_params(), PromptFacts(num_tokens=1, dropped_text="x" * 30_000))
    assert len(warning) < 200


def test_both_tails() -> None:
    params = _params(negative_prompt="n", true_cfg_scale=2.0)
    first, second = warnings_for(params, CUT, CUT)
    assert first.startswith("prompt:")
    assert second.startswith("negative_prompt:")


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
