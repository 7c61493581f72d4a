"""The receipt as text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.storage.receipt import MAX_BYTES, parse_receipt, receipt_text, with_stages
from pipelines.contracts import FinishSpec
from pipelines.cuts import Cut
from pipelines.errors import InvalidRequest
from pipelines.provenance import combined_weights
from pipelines.tiling import Tiling
from tests.deployments.pictures import painted_job
from tests.deployments.receipts import FINISH, PARAMS, STAGES, VERSIONS, receipt

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1)


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(receipt()), **fields})


def test_it_says_what_was_drawn():
    read = parse_receipt(receipt(cuts=(Cut(4, 11),)))
    assert read.request == {
        "prompt": "a cat\non a mat",
        "negative_prompt": "blurry",
        "true_cfg_scale": 3.0,
        "model": "test-model",
        "size": "80x64",
        "num_inference_steps": 12,
        "guidance_scale": 3.5,
        "seed": 6,
        "step_cuts": [[4, 11]],
        "output_format": "png",
        "n": 1,
        "skip_steps": False,
    }
    assert (read.model, read.steps, read.prompt_tokens) == ("test-model", 11, 20)
    assert read.stages == STAGES
    assert read.versions == dict(VERSIONS)
    assert read.weights == json.loads(receipt())["weights"]


def test_one_of_pictures_says_which_and_is_of_a_format_that_older_readers_refuse():
    job = painted_job(strength=0.5)
    text = receipt_text(job.params, job.finish, job.recipes, steps_run=1, cuts=())
    whole = with_stages(text, STAGES)
    assert json.loads(whole)["sluice_receipt"] == 2
    read = parse_receipt(whole)
    assert [each["role"] for each in read.pictures] == ["image", "mask"]
    assert (read.request["task"], read.request["strength"]) == ("inpaint", 0.5)
    plain = parse_receipt(receipt())
    assert (plain.pictures, json.loads(receipt())["sluice_receipt"]) == ((), 1)


TILED = (*STAGES[:2], replace(STAGES[2], tiling=Tiling(size=1024, from_pixels=3_000_000)))


def test_tiles_are_told_in_a_format_that_older_readers_refuse():
    text = receipt(stages=TILED)
    assert json.loads(text)["sluice_receipt"] == 2
    assert json.loads(text)["stages"][2]["tiling"] == {"size": 1024, "from_pixels": 3_000_000}
    assert parse_receipt(text).stages == TILED


def test_a_stage_without_tiles_is_written_as_it_always_was():
    fields = {"part", "weights", "dtype", "device", "attention", "compile", "parallel", "versions"}
    assert all(stage.keys() == fields for stage in json.loads(receipt())["stages"])


@pytest.mark.parametrize(
    "tiling", [5, {}, {"size": 4}, {"size": 4, "from_pixels": -1}, {"size": "4", "from_pixels": 1}]
)
def test_tiles_that_are_none_are_damage(tiling: object):
    stages = json.loads(receipt(stages=TILED))["stages"]
    stages[2]["tiling"] = tiling
    with pytest.raises(InvalidRequest, match="damaged"):
        parse_receipt(changed(stages=stages))


@pytest.mark.parametrize("pictures", [5, {"role": "image"}, [1, None], "image"])
def test_pictures_that_are_none_are_not_read_as_some(pictures: object):
    request = {**json.loads(receipt())["request"], "pictures": pictures}
    assert parse_receipt(changed(request=request)).pictures == ()


def test_lossy_formats_tell_their_quality():
    finish = replace(FINISH, output_format="webp", output_compression=61)
    assert parse_receipt(receipt(finish=finish)).request["output_compression"] == 61


def test_guidance_that_was_not_used_is_told_as_none():
    read = parse_receipt(receipt(replace(PARAMS, true_cfg_scale=1.0)))
    assert read.request["true_cfg_scale"] == 1.0
    assert "negative_prompt" not in read.request


@given(prompt=TEXTS, negative=TEXTS, model=TEXTS.map(lambda text: text[:64]))
@example(prompt=']]>&<\x7f\x85\u2028\ufffe\\u0041"', negative="\t\r\n '", model="a:b, c")
def test_any_text_is_read_as_it_was_written(prompt: str, negative: str, model: str):
    params = replace(PARAMS, prompt=prompt, negative_prompt=negative)
    read = parse_receipt(receipt(params, FinishSpec(seed=1, model=model)))
    assert (read.request["prompt"], read.request["negative_prompt"]) == (prompt, negative)
    assert read.model == model


def test_the_hash_of_the_weights_is_of_all_parts_in_any_order():
    parts = [(stage.part, stage.weights) for stage in STAGES]
    assert combined_weights(parts) == combined_weights(parts[::-1] + parts)
    assert combined_weights(parts) != combined_weights(parts[:2])
    assert combined_weights([*parts, ("vae", None)]) is None
    assert combined_weights([]) is None


def test_weights_that_could_not_be_read_are_told_as_none():
    stages = (*STAGES[:2], replace(STAGES[2], weights=None))
    read = parse_receipt(receipt(stages=stages))
    assert read.stages == stages
    assert read.weights is None


def test_one_that_would_be_too_long_is_none():
    params = replace(PARAMS, prompt="x" * MAX_BYTES)
    assert with_stages(receipt_text(params, FINISH, steps_run=1, cuts=()), STAGES) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"sluice_receipt": 1, "steps": NaN}', "not JSON"),
        ("9" * 5_000, "not JSON"),
        ("[1]", "no number of its format"),
        ("{}", "no number of its format"),
        (changed(sluice_receipt=True), "no number of its format"),
        (changed(sluice_receipt="1"), "no number of its format"),
        (changed(sluice_receipt=3), "of format 3, and this server reads 1 and 2"),
        (changed(model=None), "`model` is not a short text"),
        (changed(model="x" * 300), "`model` is not a short text"),
        (changed(steps=1.5), "`steps` is not a number"),
        (changed(steps=-1), "`steps` is not a number"),
        (changed(steps=False), "`steps` is not a number"),
        (changed(prompt_tokens=2**40), "`prompt_tokens` is not a number"),
        (changed(request=[]), "`request` is not an object"),
        (changed(stages={}), "`stages` is not a short list"),
        (changed(stages=[1] * 65), "`stages` is not a short list"),
        (changed(stages=[1]), "a stage has other fields"),
        (changed(stages=[{"part": "vae"}]), "a stage has other fields"),
    ],
)
def test_what_is_no_receipt(text: str, why: str):
    with pytest.raises(InvalidRequest, match=why):
        parse_receipt(text)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("part", 1, "`part` is not a short text"),
        ("weights", [], "`weights` is not a short text"),
        ("compile", "yes", "`compile` is not true or false"),
        ("versions", [], "`versions` is not a short object"),
        ("versions", {"torch": 2}, "`torch` is not a short text"),
        ("versions", {str(i): "" for i in range(65)}, "`versions` is not a short object"),
    ],
)
def test_what_is_no_stage(field: str, value: object, why: str):
    stage = {**json.loads(receipt())["stages"][0], field: value}
    with pytest.raises(InvalidRequest, match=why):
        parse_receipt(changed(stages=[stage]))
