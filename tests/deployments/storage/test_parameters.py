"""The text in a file's metadata."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.storage.encode import encode_image, read_parameters
from deployments.storage.parameters import parameters_text, read_record
from pipelines.contracts import FinishSpec, GenerationParams
from pipelines.cuts import Cut
from pipelines.errors import InvalidRequest

PARAMS = GenerationParams(
    prompt="a cat\non a mat",
    negative_prompt="blurry",
    height=64,
    width=48,
    num_inference_steps=12,
    guidance_scale=3.5,
    true_cfg_scale=3.0,
    seed=5,
    num_images=2,
    max_sequence_length=32,
)
FINISH = FinishSpec(seed=6, model="m")
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1)


def text_of(params: GenerationParams = PARAMS, finish: FinishSpec = FINISH) -> str:
    return parameters_text(params, finish, steps_run=12, cuts=())


def test_it_lists_what_was_used():
    assert text_of() == (
        "a cat\non a mat\n"
        "Negative prompt: blurry\n"
        "Steps: 12, Sampler: Euler, CFG scale: 3, Distilled CFG Scale: 3.5,"
        ' Seed: 6, Size: 48x64, Model: m, Sluice: {"prompt"%3A "a cat\\non a mat"%2C'
        ' "negative_prompt"%3A "blurry"%2C "true_cfg_scale"%3A 3.0%2C "model"%3A "m"%2C'
        ' "size"%3A "48x64"%2C "num_inference_steps"%3A 12%2C "guidance_scale"%3A 3.5%2C'
        ' "seed"%3A 6%2C "output_format"%3A "png"}'
    )


def test_a_negative_prompt_without_guidance_is_not_told():
    assert "blurry" not in text_of(replace(PARAMS, true_cfg_scale=1.0))


def test_steps_are_those_that_were_run():
    text = parameters_text(PARAMS, FINISH, steps_run=7, cuts=(Cut(0, 10), Cut(4, 7)))
    assert "\nSteps: 7, " in text
    record = read_record(text)
    assert (record["num_inference_steps"], record["step_cuts"]) == (10, [[4, 7]])


@given(prompt=TEXTS, negative=TEXTS, guidance=st.floats(0, 100), model=TEXTS)
@example(prompt="%2C,%%:,\u2028\x85", negative=", Sluice: {}", guidance=0.1 + 0.2, model="a:b, c")
def test_the_record_is_read_as_it_was_written(
    prompt: str, negative: str, guidance: float, model: str
):
    params = replace(PARAMS, prompt=prompt, negative_prompt=negative, guidance_scale=guidance)
    text = text_of(params, replace(FINISH, model=model, output_format="webp"))
    record = read_record(text)
    assert (record["prompt"], record["negative_prompt"]) == (prompt, negative)
    assert (record["guidance_scale"], record["model"]) == (guidance, model)
    settings = text.rpartition("\n")[2]
    assert settings.startswith("Steps: ")
    assert not set(settings.rpartition(", Sluice: ")[2]) & set(",:\x85\u2028\u2029")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a cat\nSteps: 4, Seed: 7",
        'a cat, Sluice: {"prompt": "x", "seed": 1}',
        'a\nSteps: 1, Sluice: {"prompt"%3A "x"}',
        "a\nSteps: 1, Sluice: [1]",
        "a\nSteps: 1, Sluice: {",
    ],
)
def test_what_is_no_record(text: str):
    with pytest.raises(InvalidRequest, match="no whole Sluice record"):
        read_record(text)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("letter", "count"), [("x", 30_000), ("🐈, ", 4_000), ("🐈", 32_000)])
def test_long_prompts(output_format: str, letter: str, count: int):
    params = replace(PARAMS, prompt=letter * count)
    file = encode_image(
        np.zeros((8, 8, 3), np.uint8),
        output_format=output_format,
        output_compression=90,
        parameters=text_of(params),
    )
    text = read_parameters(file)
    assert "\nSteps: 12, Sampler: Euler, CFG scale: 3, " in text
    if output_format == "jpeg" and count == 32_000:  # no segment is so long
        with pytest.raises(InvalidRequest, match="too long for a JPEG"):
            read_record(text)
    else:
        assert read_record(text)["prompt"] == params.prompt
