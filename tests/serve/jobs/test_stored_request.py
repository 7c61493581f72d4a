"""What is stored of a request makes the same plan again, whatever the settings are by then."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from serve.api.planning import plan_of
from serve.api.schemas import parse_request
from serve.jobs.stored_request import stored_plan, stored_request
from serve.settings.settings import Deadlines
from tests.serve.fakes import SPEC, services


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a cat"},
        {"prompt": "[GEN] a cat --ar 2:1", "n": 3, "seed": 2**63 - 3},
        {"prompt": "a cat", "quality": "low"},
        {"prompt": "a (black:1.3) cat", "prompt_weighting": True},
        {"prompt": "a cat", "quality": "high", "guidance_scale": 0.1},
        {"prompt": "a cat", "negative_prompt": "", "true_cfg_scale": 1.7},
        {"prompt": "a cat", "num_inference_steps": 20, "step_cuts": [[5, 12], [8, 10]]},
        {"prompt": "a cat", "min_steps": 3, "deadline_ms": 9000, "priority": -3},
        {"prompt": "\u732b \U0001f408", "output_format": "jpeg", "output_compression": 0},
    ],
    ids=str,
)
def test_the_same_plan(body: dict[str, Any]):
    planned = plan_of(services(), parse_request({**body, "response_format": "url"}))
    through_json = json.loads(json.dumps(stored_request(planned)))
    again = stored_plan(through_json, spec=SPEC, deadlines=Deadlines())
    assert again == replace(planned, quality=None, revised_prompt=None, warnings=())
    posted = plan_of(services(), parse_request({**through_json, "model": "sluice-shapes"}))
    assert posted.params == planned.params


def test_deadlines_of_the_moment_only_order_the_work():
    planned = plan_of(services(), parse_request({"prompt": "a cat"}))
    stored = stored_request(planned)
    assert stored["deadline_ms"] is None
    later = stored_plan(stored, spec=SPEC, deadlines=Deadlines(default_ms=7))
    assert (later.requested.deadline_ms, later.requested.refuses_late) == (7, False)
    assert later.params == planned.params
