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
from pipelines.pictures.recipe import Padding
from pipelines.tasks import PictureRole, Task
from tests.deployments.pictures import painted_job, recipe, with_pictures

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


class TestPictures:
    def test_of_a_text_alone_nothing_is_said_of_them(self):
        record = read_record(text_of())
        assert not record.keys() & {"task", "strength", "pictures", "paste_back"}

    def test_what_each_was_and_what_was_made_of_it(self):
        job = painted_job(strength=0.6)
        text = parameters_text(job.params, job.finish, job.recipes, steps_run=2, cuts=())
        assert ", Denoising strength: 0.6, " in text
        record = read_record(text)
        image, mask = job.recipes
        assert image.source is not None
        assert mask.source is not None
        assert (record["task"], record["strength"], record["paste_back"]) == ("inpaint", 0.6, True)
        assert record["pictures"] == [
            {"role": "image", "size": "64x64", "sha256": image.source.sha256},
            {"role": "mask", "size": "64x64", "sha256": mask.source.sha256},
        ]

    def test_what_differs_from_the_usual_is_said(self):
        job = painted_job()
        image, mask = job.recipes
        padded = replace(image, fit="contain", padding=Padding(8, 0, 4, 0), background=(0, 0, 0))
        border = replace(mask, source=None, padding=Padding(8, 0, 4, 0))
        masked = replace(
            image, use=replace(image.use, role=PictureRole.MASKED_IMAGE), mask=mask.source
        )
        job = with_pictures(job, (padded, border, masked), task=Task.FILL)
        text = parameters_text(job.params, job.finish, job.recipes, steps_run=2, cuts=())
        told = read_record(text)["pictures"]
        assert told[0].keys() == {"role", "size", "sha256", "fit", "padding", "background"}
        assert (told[0]["padding"], told[0]["background"]) == ([8, 0, 4, 0], [0, 0, 0])
        assert told[1] == {"role": "mask", "size": "64x64", "padding": [8, 0, 4, 0]}
        assert told[2]["mask_sha256"] == mask.source.sha256 if mask.source else None

    def test_a_control_map_says_how_it_counts(self):
        each = recipe(PictureRole.CONTROL, b"edges", name="control")
        use = replace(each.use, kind="canny", scale=0.7, end=0.5)
        job = with_pictures(painted_job(), (replace(each, use=use),), task=Task.TEXT_TO_IMAGE)
        text = parameters_text(job.params, job.finish, job.recipes, steps_run=2, cuts=())
        record = read_record(text)
        assert "strength" not in record  # it starts from noise
        (told,) = record["pictures"]
        assert (told["kind"], told["scale"], told["end"]) == ("canny", 0.7, 0.5)
        assert "start" not in told

    def test_no_file_can_be_found_by_it(self):
        """Who knows a file's id may read it, and files are passed on."""
        job = painted_job()
        image, mask = job.recipes
        assert image.source is not None
        stored = replace(image, source=replace(image.source, data=None, file_id="f" * 32))
        text = parameters_text(job.params, job.finish, (stored, mask), steps_run=2, cuts=())
        assert "f" * 32 not in text
