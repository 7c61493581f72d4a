"""The chain in one process: chunks, steps and skipping."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.contracts import GenerationParams, StepEvent
from pipelines.local import LocalChain
from tests.oracle import compare, oracle_images
from tests.specs import tiny_spec

PARAMS = GenerationParams(
    prompt="a red cat",
    negative_prompt="a dog",
    true_cfg_scale=2.0,
    height=64,
    width=64,
    num_inference_steps=10,
    guidance_scale=3.5,
    seed=4,
    num_images=5,
    max_sequence_length=16,
)


@pytest.mark.parametrize(("max_tokens", "chunks"), [(10_000, [5]), (130, [2, 2, 1]), (1, [1] * 5)])
def test_images_step_together_as_far_as_a_tick_holds_them(
    dev_like: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, chunks: list[int]
) -> None:
    monkeypatch.setattr("pipelines.local._MAX_TOKENS_PER_TICK", max_tokens)
    events: list[StepEvent] = []
    params = replace(PARAMS, num_inference_steps=2)
    images = LocalChain.load(tiny_spec(dev_like)).generate(params, on_step=events.append)
    for image, reference in zip(images, oracle_images(dev_like, params), strict=True):
        assert compare(image.pixels, reference).is_exact
    expected: list[tuple[str, int]] = []
    first = 0
    for count in chunks:
        names = [f"local-{index}" for index in range(first, first + count)]
        expected += [(name, step) for step in (1, 2) for name in names]
        first += count
    assert [(event.work_id, event.step) for event in events] == expected
    assert {event.num_steps for event in events} == {2}


def test_skipping_runs_fewer_forwards_and_stays_near(dev_like: Path) -> None:
    events: list[StepEvent] = []
    chain = LocalChain.load(tiny_spec(dev_like))
    one = replace(PARAMS, num_images=1)
    (full,) = chain.generate(one)
    (skipped,) = chain.generate(replace(one, skips_steps=True), on_step=events.append)
    assert [(event.step, event.num_steps) for event in events] == [(n, 6) for n in range(1, 7)]
    assert not compare(full.pixels, skipped.pixels).is_exact
    gap = abs(full.pixels.astype(float) - skipped.pixels.astype(float)).mean()
    assert gap < 0.25 * full.pixels.std()
