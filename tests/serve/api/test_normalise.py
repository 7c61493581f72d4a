from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest, ModelNotFound, UnsupportedFeature
from serve.api.normalise import MAX_SEED, Plan, normalise
from serve.api.schemas import parse_request
from serve.settings.settings import Deadlines, Limits
from tests.serve.fakes import SPEC

RANDOM_SEED = 4242
LIMITS = Limits(max_steps=20, max_images=4, max_prompt_chars=200, max_pixels=256 * 256)
DEADLINES = Deadlines()


def plan(
    spec: ModelSpec = SPEC,
    limits: Limits = LIMITS,
    deadlines: Deadlines = DEADLINES,
    **body: Any,
) -> Plan:
    return normalise(
        parse_request({"prompt": "a cat", **body}),
        spec=spec,
        limits=limits,
        deadlines=deadlines,
        served_names=("alias", spec.name),
        random_seed=RANDOM_SEED,
    )


def refusal(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        plan(**body)
    return caught.value


def test_a_bare_prompt_gets_the_models_defaults():
    made = plan()
    params = made.params
    assert (params.prompt, params.negative_prompt) == ("a cat", None)
    assert (params.height, params.width) == (SPEC.height, SPEC.width)
    assert params.num_inference_steps == SPEC.num_inference_steps
    assert params.guidance_scale == SPEC.guidance_scale
    assert (params.seed, params.num_images) == (RANDOM_SEED, 1)
    assert params.max_sequence_length == SPEC.max_sequence_length
    assert not params.uses_true_cfg
    assert made.quality == "medium"
    assert made.revised_prompt is None
    assert made.warnings == ()


def test_every_field_is_used():
    made = plan(
        model="alias",
        n=2,
        size="128x64",
        num_inference_steps=5,
        guidance_scale=2.5,
        seed=9,
        negative_prompt="blurry",
        true_cfg_scale=4,
        output_format="jpeg",
        output_compression=70,
        response_format="b64_json",
        background="opaque",
        moderation="auto",
        stream=False,
        partial_images=0,
    )
    params, finish = made.params, made.finish
    assert (params.num_images, params.width, params.height) == (2, 128, 64)
    assert (params.num_inference_steps, params.guidance_scale, params.seed) == (5, 2.5, 9)
    assert (params.negative_prompt, params.true_cfg_scale) == ("blurry", 4.0)
    assert params.uses_true_cfg
    assert (finish.output_format, finish.output_compression, finish.seed) == ("jpeg", 70, 9)
    assert (finish.inline, finish.store) == (True, False)
    assert made.quality is None
    assert made.warnings == ()


@pytest.mark.parametrize(
    ("response_format", "inline", "store"),
    [
        (None, True, True),
        ("b64_json", True, False),
        ("url", False, True),
        ("file", True, False),
    ],
)
def test_response_format(response_format: str | None, inline: bool, store: bool):
    finish = plan(response_format=response_format).finish
    assert (finish.inline, finish.store) == (inline, store)


@pytest.mark.parametrize(
    ("quality", "steps", "shown"),
    [("auto", 12, "medium"), ("low", 12, "low"), ("medium", 12, "medium"), ("high", 18, "high")],
)
def test_quality_presets(quality: str, steps: int, shown: str):
    made = plan(quality=quality)
    assert made.params.num_inference_steps == steps
    assert made.params.skips_steps == (quality == "low")
    assert made.quality == shown


def test_quality_is_bounded_by_the_servers_steps():
    made = plan(limits=Limits(max_steps=15), quality="high")
    assert made.params.num_inference_steps == 15
    assert made.warnings == ("quality: 15 steps instead of 18, this server's limit",)


def test_explicit_steps_win_over_quality():
    made = plan(quality="low", num_inference_steps=3)
    assert made.params.num_inference_steps == 3
    assert not made.params.skips_steps
    assert made.quality is None
    assert made.warnings == ("quality: not used, num_inference_steps was given",)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"prompt": ""}, "prompt", "blank"),
        ({"prompt": " \n\t "}, "prompt", "blank"),
        ({"prompt": "[GEN] --ar 1:1"}, "prompt", "blank"),
        ({"prompt": "x" * 201}, "prompt", "at most 200 characters, got 201"),
        (
            {"negative_prompt": "x" * 201, "true_cfg_scale": 2},
            "negative_prompt",
            "at most 200 characters",
        ),
        ({"n": 0}, "n", "must be 1 to 4, got 0"),
        ({"n": -1}, "n", "must be 1 to 4"),
        ({"n": 1000}, "n", "must be 1 to 4, got 1000"),
        ({"size": "100x64"}, "size", "nearest allowed size is 96x64"),
        ({"size": "0x0"}, "size", "64 to 512 pixels"),
        ({"size": "512x512"}, "size", "at most 65536 pixels"),
        ({"size": "huge"}, "size", "'auto' or 'WIDTHxHEIGHT'"),
        ({"num_inference_steps": 0}, "num_inference_steps", "must be 1 to 20"),
        ({"num_inference_steps": 21}, "num_inference_steps", "must be 1 to 20"),
        ({"guidance_scale": -0.1}, "guidance_scale", "must be 0 to 100"),
        ({"guidance_scale": 101}, "guidance_scale", "must be 0 to 100"),
        ({"true_cfg_scale": -1}, "true_cfg_scale", "must be 0 to 100"),
        ({"seed": -2}, "seed", "must be 0 to 9223372036854775807, or -1 for a random one, got -2"),
        ({"seed": 2**63}, "seed", "must be 0 to 9223372036854775807"),
        ({"seed": 10**3000}, "seed", "more than 20 digits"),
        ({"seed": MAX_SEED, "n": 2}, "seed", f"must be 0 to {MAX_SEED - 1}"),
        ({"output_compression": 101}, "output_compression", "must be 0 to 100"),
        ({"partial_images": 4}, "partial_images", "must be 0 to 3"),
        ({"user": "u" * 257}, "user", "at most 256 characters"),
        ({"deadline_ms": 0}, "deadline_ms", "must be 1 to 600000, got 0"),
        ({"deadline_ms": 600_001}, "deadline_ms", "must be 1 to 600000"),
        ({"priority": 11}, "priority", "must be -10 to 10, got 11"),
        ({"priority": -11}, "priority", "must be -10 to 10"),
        ({"min_steps": 0}, "min_steps", "must be 1 to 12, got 0"),
        ({"min_steps": 13}, "min_steps", "must be 1 to 12, got 13"),
        ({"min_steps": 6, "num_inference_steps": 5}, "min_steps", "must be 1 to 5"),
        ({"min_steps": 6, "quality": "low"}, "min_steps", "cannot stand beside quality 'low'"),
    ],
)
def test_refusals_name_field_and_range(body: dict[str, Any], param: str, said: str):
    error = refusal(**body)
    assert error.param == param
    assert said in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": "transparent"}, "background"),
        ({"moderation": "low"}, "moderation"),
        ({"prompt": "[VQA] what is it?"}, "prompt"),
        ({"prompt": "[CAPTION]"}, "prompt"),
    ],
)
def test_what_is_not_offered_is_refused(body: dict[str, Any], param: str):
    error = refusal(**body)
    assert isinstance(error, UnsupportedFeature)
    assert error.param == param


def test_a_stream_holds_base64_whatever_else_it_holds():
    assert plan(stream=True).finish == plan().finish
    links = plan(stream=True, response_format="url")
    assert (links.finish.inline, links.finish.store) == (True, True)
    (warning,) = links.warnings
    assert warning.startswith("response_format: the events hold b64_json all the same")
    error = refusal(stream=True, response_format="file")
    assert error.param == "response_format"
    assert "cannot stand beside stream" in error.message


def test_partial_images_are_of_streams():
    assert plan(partial_images=3, stream=True).warnings == ()
    assert plan(partial_images=1).warnings == ("partial_images: not used without stream",)
    assert plan(partial_images=0).warnings == ()


def test_seeds():
    assert plan(seed=0).params.seed == 0
    assert plan(seed=MAX_SEED).params.seed == MAX_SEED
    assert plan(seed=MAX_SEED - 3, n=4).params.num_images == 4


def test_minus_one_is_a_random_seed():
    made = plan(seed=-1)
    assert made.params.seed == RANDOM_SEED
    assert made.warnings == ("seed: -1 stands for a random one; the answer says which was drawn",)


@pytest.mark.parametrize("style", ["vivid", "natural"])
def test_the_styles_of_dall_e_3_are_noted(style: str):
    made = plan(style=style)
    assert made.params == plan().params
    assert made.warnings == ("style: not used, there are no style presets; say it in the prompt",)


class TestAspectRatio:
    def test_it_is_that_of_the_prompt(self):
        made = plan(aspect_ratio="16:9")
        assert made.params == plan(prompt="a cat --ar 16:9").params
        assert (made.warnings, made.revised_prompt) == ((), None)

    def test_it_may_be_said_twice(self):
        assert plan(aspect_ratio="4:2", prompt="a cat --ar 2:1", size="256x128").warnings == ()

    @pytest.mark.parametrize(
        ("body", "param", "said"),
        [
            (
                {"aspect_ratio": "16:9", "prompt": "a cat --ar 9:16"},
                "aspect_ratio",
                "aspect_ratio: 16:9 contradicts --ar 9:16 in the prompt",
            ),
            (
                {"aspect_ratio": "16:9", "size": "128x128"},
                "size",
                "size: 128x128 contradicts aspect_ratio, which would be",
            ),
            ({"aspect_ratio": "4:1"}, "aspect_ratio", "must be 1:3 to 3:1, got '4:1'"),
            ({"aspect_ratio": "0:1"}, "aspect_ratio", "must be 1:3 to 3:1"),
        ],
    )
    def test_contradictions(self, body: dict[str, Any], param: str, said: str):
        error = refusal(**body)
        assert error.param == param
        assert said in error.message


class TestMarkup:
    def test_weights_and_adapters_are_named_and_sent_as_written(self):
        prompt = "a (red:1.3) cat <lora:x:1> ((fat))"
        made = plan(prompt=prompt)
        assert made.params.prompt == prompt
        assert made.revised_prompt is None
        weights, adapters = made.warnings
        assert weights.startswith('prompt: weights such as "(red:1.3)", "((fat))" have no effect')
        assert adapters.startswith('prompt: "<lora:x:1>" loads nothing')

    def test_in_a_negative_prompt_that_is_used(self):
        (said,) = plan(negative_prompt="(blurry:1.2)", true_cfg_scale=3).warnings
        assert said.startswith('negative_prompt: weights such as "(blurry:1.2)"')
        (said,) = plan(negative_prompt="(blurry:1.2)").warnings
        assert said == "negative_prompt: not used unless true_cfg_scale is above 1"


def test_model_names():
    assert plan(model=SPEC.name) == plan(model="alias") == plan()
    with pytest.raises(ModelNotFound, match="'dall-e-3' is not served here; served: alias"):
        plan(model="dall-e-3")


def test_guidance_on_a_model_without_it():
    spec = dataclasses.replace(SPEC, guidance_embeds=False, guidance_scale=0.0)
    made = plan(spec, guidance_scale=7)
    assert made.params.guidance_scale == 0.0
    assert made.warnings == ("guidance_scale: not used, test-model takes no guidance",)


def test_negative_prompt_and_true_cfg_need_each_other():
    alone = plan(negative_prompt="blurry")
    assert alone.params.negative_prompt is None
    assert alone.warnings == ("negative_prompt: not used unless true_cfg_scale is above 1",)
    scale = plan(true_cfg_scale=4)
    assert scale.params.true_cfg_scale == 1.0
    assert scale.warnings == (
        "true_cfg_scale: not used without negative_prompt, which may be empty",
    )
    both = plan(negative_prompt="", true_cfg_scale=4)
    assert both.params.uses_true_cfg
    assert both.warnings == ()


def test_compression_of_png_is_named():
    assert plan(output_compression=50).warnings == (
        "output_compression: not used, png is lossless",
    )
    assert plan(output_compression=50, output_format="webp").warnings == ()


class TestPromptSyntax:
    def test_gen_is_taken_off(self):
        made = plan(prompt="[GEN] a cat")
        assert made.params.prompt == made.revised_prompt == "a cat"

    @pytest.mark.parametrize("ratio", ["16:9", "9:16", "3:1", "1:3", "1:1", "4:3"])
    def test_a_ratio_sets_the_size(self, ratio: str):
        made = plan(prompt=f"a cat --ar {ratio}")
        width, height = map(int, ratio.split(":"))
        params = made.params
        assert made.revised_prompt == "a cat"
        assert params.width / params.height == pytest.approx(width / height, rel=0.3)
        assert params.width % 16 == params.height % 16 == 0
        assert min(params.width, params.height) >= 64

    def test_a_ratio_agrees_with_its_own_size(self):
        made = plan(prompt="a cat --ar 2:1", size="256x128")
        assert (made.params.width, made.params.height) == (256, 128)

    def test_a_ratio_against_the_size_is_refused(self):
        error = refusal(prompt="a cat --ar 16:9", size="128x128")
        assert error.param == "size"
        assert "size: 128x128 contradicts the --ar of the prompt" in error.message

    def test_a_bad_ratio_names_the_prompt(self):
        assert refusal(prompt="a cat --ar 0:9").param == "prompt"

    def test_other_options_name_the_field_to_use(self):
        assert "`seed`" in refusal(prompt="a cat --seed 7").message


def test_a_size_that_the_model_was_not_trained_on_is_drawn_with_a_warning():
    spec = dataclasses.replace(SPEC, trained_sizes=((64, 64), (64, 96)))
    assert plan(spec).warnings == ()
    assert plan(spec, size="96x64").warnings == ()
    made = plan(spec, size="64x96")
    assert (made.params.height, made.params.width) == (96, 64)
    assert made.warnings == ("size: used; test-model draws worse at sizes other than 64x64, 96x64",)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("prompt", {"prompt": "a cat --ar 2:1"}),
        ("aspect_ratio", {"prompt": "a cat", "aspect_ratio": "2:1"}),
    ],
)
def test_that_warning_names_the_field_that_asks_for_the_size(field: str, body: dict[str, Any]):
    spec = dataclasses.replace(SPEC, trained_sizes=((64, 64),))
    made = plan(spec, **body)
    assert made.warnings[0].startswith(f"{field}: used; ")
    assert f"{made.params.width}x{made.params.height} here" in made.warnings[0]


def test_all_mistakes_are_told_at_once():
    error = refusal(background="transparent", num_inference_steps=0, n=99, seed=-2, priority=50)
    assert error.param == "background"
    told = [said.partition(": ")[0] for said in error.message.split("; ") if ": " in said]
    assert told == ["background", "num_inference_steps", "priority", "n"]


def test_what_is_built_on_a_mistake_is_not_told():
    error = refusal(num_inference_steps=0, min_steps=3, step_cuts=[[4, 9]])
    assert error.message.count("num_inference_steps") == 1
    assert "step_cuts" not in error.message


class TestShorterSchedules:
    def test_quality_low_skips_and_so_does_the_field(self):
        assert plan(quality="low").params.skips_steps
        assert plan(num_inference_steps=9, skip_steps=True).params.skips_steps
        assert not plan(quality="low", skip_steps=False).params.skips_steps
        assert not plan().params.skips_steps

    def test_cuts_are_planned(self):
        made = plan(num_inference_steps=20, step_cuts=[[4, 12], [6, 9]])
        assert made.params.planned_cuts == ((4, 12), (6, 9))
        assert plan(step_cuts=[]).params.planned_cuts == ()

    @pytest.mark.parametrize(
        ("fields", "param", "said"),
        [
            ({"step_cuts": [[4, 20]]}, "step_cuts", "does not follow 20 steps after 0"),
            ({"step_cuts": [[4, 9], [4, 7]]}, "step_cuts", "does not follow 9 steps after 4"),
            ({"step_cuts": [[4]]}, "step_cuts", "at least 2 items"),
            ({"step_cuts": [4, 9]}, "step_cuts", "must be an array, got 4"),
            ({"step_cuts": [[4, 9]], "min_steps": 3}, "step_cuts", "beside min_steps"),
            ({"step_cuts": [[4, 9]], "skip_steps": True}, "step_cuts", "beside skip_steps"),
            ({"min_steps": 3, "skip_steps": True}, "min_steps", "beside skip_steps"),
        ],
    )
    def test_one_way_at_a_time(self, fields: dict[str, Any], param: str, said: str):
        error = refusal(num_inference_steps=20, **fields)
        assert error.param == param
        assert said in error.message


class TestDeadlines:
    def test_the_servers_default_orders_and_refuses_nothing(self):
        requested = plan().requested
        assert (requested.deadline_ms, requested.priority, requested.refuses_late) == (
            30_000,
            0,
            False,
        )

    def test_what_the_request_says(self):
        requested = plan(deadline_ms=1500, priority=-3).requested
        assert (requested.deadline_ms, requested.priority, requested.refuses_late) == (
            1500,
            -3,
            True,
        )

    def test_other_defaults(self):
        deadlines = Deadlines(default_ms=None, default_priority=2, unreachable="best_effort")
        requested = plan(deadlines=deadlines).requested
        assert (requested.deadline_ms, requested.priority, requested.refuses_late) == (
            None,
            2,
            False,
        )
        assert not plan(deadlines=deadlines, deadline_ms=5).requested.refuses_late

    def test_fewer_steps(self):
        assert plan().params.min_inference_steps is None
        made = plan(min_steps=6)
        assert made.params.min_inference_steps == 6
        assert made.warnings == ()
        assert plan(min_steps=6, quality="low", num_inference_steps=8).params == (
            plan(min_steps=6, num_inference_steps=8).params
        )

    def test_fewer_steps_than_all_of_them_are_none(self):
        assert plan(min_steps=12).params == plan().params

    def test_fewer_steps_have_no_use_without_a_deadline(self):
        deadlines = Deadlines(default_ms=None)
        made = plan(deadlines=deadlines, min_steps=6)
        assert made.params.min_inference_steps is None
        assert made.warnings == ("min_steps: not used without deadline_ms",)
        assert plan(deadlines=deadlines, min_steps=6, deadline_ms=9).params.min_inference_steps == 6
