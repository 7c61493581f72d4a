"""`prompt_weighting` from the request to what is drawn, checked, stored and told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from deployments.storage.parameters import redrawing_fields
from deployments.storage.receipt import receipt_text
from pipelines import families
from pipelines.catalog import models
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.moderation import PromptRules
from serve.jobs.stored_request import stored_plan, stored_request
from serve.settings.settings import Deadlines
from tests.pipelines.second_family import made_up_spec, registered
from tests.serve.api.test_normalise import plan
from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, services

WEIGHTED = "a (red:1.3) cat"
BY_DEFAULT = dataclasses.replace(SPEC, prompt_weighting=True)


def test_it_is_off_and_says_so_where_a_prompt_looks_weighted():
    made = plan(prompt=WEIGHTED)
    assert not made.params.prompt_weighting
    assert (made.params.prompt, made.params.plain_prompt) == (WEIGHTED, WEIGHTED)
    (said,) = made.warnings
    assert said.startswith('prompt: weights such as "(red:1.3)" have no effect without prompt_w')
    assert plan(prompt="a cat (black)").warnings == ()
    assert not any(spec.prompt_weighting for spec in models().values())


def test_a_request_or_its_model_switches_it_on():
    for made in (plan(prompt=WEIGHTED, prompt_weighting=True), plan(BY_DEFAULT, prompt=WEIGHTED)):
        assert made.params.prompt_weighting
        assert (made.params.prompt, made.params.plain_prompt) == (WEIGHTED, "a red cat")
        assert made.warnings == ()
    assert not plan(BY_DEFAULT, prompt=WEIGHTED, prompt_weighting=False).params.prompt_weighting


@pytest.mark.parametrize(
    ("body", "param", "why"),
    [
        ({"prompt": "a (cat:2.5)"}, "prompt", "weights are 0 to 2"),
        ({"prompt": "a (cat"}, "prompt", "never closed"),
        ({"prompt": "(( ))"}, "prompt", "describe the image in words"),
        (
            {"prompt": "a cat", "negative_prompt": "(dog:9)", "true_cfg_scale": 2.0},
            "negative_prompt",
            "weights are 0 to 2",
        ),
        ({"prompt": "a cat --no (dog:9)", "true_cfg_scale": 2.0}, "prompt", "weights are 0 to 2"),
    ],
)
def test_bad_weights_are_refused_by_their_field(body: dict[str, Any], param: str, why: str):
    with pytest.raises(InvalidRequest, match=why) as error:
        plan(**body, prompt_weighting=True)
    assert error.value.param == param
    assert error.value.message.startswith(f"{param}: ")
    if body["prompt"] != "(( ))":
        assert plan(**body).params.prompt  # plain text, where weights are off


def test_a_family_without_weights_refuses_them():
    spec = made_up_spec()
    with registered():
        assert not families.family_of(spec).weighs_words
        with pytest.raises(UnsupportedFeature, match="leave it out") as error:
            plan(spec, size="64x64", prompt_weighting=True)
        assert error.value.param == "prompt_weighting"


def test_a_stored_request_has_it_and_an_old_one_has_none():
    planned = plan(prompt=WEIGHTED, prompt_weighting=True)
    stored = json.loads(json.dumps(stored_request(planned)))
    again = stored_plan(stored, spec=SPEC, deadlines=Deadlines())
    assert again.params == planned.params
    del stored["prompt_weighting"]
    assert not stored_plan(stored, spec=SPEC, deadlines=Deadlines()).params.prompt_weighting


@pytest.mark.parametrize("is_on", [True, False])
def test_what_draws_a_file_again_says_it_where_it_means_something(is_on: bool):
    made = plan(prompt=WEIGHTED, prompt_weighting=is_on)
    fields = redrawing_fields(made.params, made.finish, (), ())
    assert fields["prompt_weighting"] is is_on
    for spec in (SPEC, BY_DEFAULT):
        names = {"model": None, "output_format": "png", **fields}
        assert plan(spec, **{**names, "model": None}).params == made.params
    receipt = json.loads(receipt_text(made.params, made.finish, steps_run=1, cuts=()))
    assert receipt["request"]["prompt_weighting"] is is_on
    assert receipt["sluice_receipt"] == (2 if is_on else 1)
    prose = plan(prompt="a cat", prompt_weighting=is_on)
    assert "prompt_weighting" not in redrawing_fields(prose.params, prose.finish, (), ())
    assert (
        json.loads(receipt_text(prose.params, prose.finish, steps_run=1, cuts=()))["sluice_receipt"]
        == 1
    )


def test_a_negative_prompt_counts_where_it_is_encoded():
    asked = {"negative_prompt": "(dog:0.5)", "prompt_weighting": True}
    used, unused = (plan(**asked, true_cfg_scale=scale) for scale in (2.0, 1.0))
    assert used.params.weighs_words
    assert not unused.params.weighs_words


async def test_prompt_rules_read_what_the_model_reads(client_of: ClientOf) -> None:
    client = client_of(services(rules=PromptRules.load()))
    split = {"prompt": "a lot of (g:1.1)(o)(re:1.2)", "prompt_weighting": True}
    refused = await client.post("/v1/images/generations", json=split)
    assert refused.json()["error"]["code"] == "content_policy_violation"
    innocent = {**split, "prompt": "a lot of (green:1.1)"}
    assert (await client.post("/v1/images/generations", json=innocent)).status_code == 200
