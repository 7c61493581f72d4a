from __future__ import annotations

import pytest

from pipelines import errors
from pipelines.contracts import GenerationResult, Usage
from serve.api.images_response import usage_report
from serve.error_responses import error_body
from serve.errors import ERROR_TABLE
from serve.jobs.job import JobStatus
from serve.jobs.running.outcome import outcome_of_error, outcome_of_result
from serve.jobs.running.retry_budget import LONGEST_PAUSE_S, RetryBudget

REFUSED = errors.ContentPolicyViolation(
    "refused", stage="image", category="x", score=0.9, threshold=0.5, image_index=1
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (REFUSED, JobStatus.MODERATED),
        (errors.DeadlineUnreachable("no", earliest_s=2.0), JobStatus.EXPIRED),
        (errors.StageLost("lost", stage="Denoiser"), JobStatus.FAILED),
        (errors.InvalidRequest("n: too many", param="n"), JobStatus.FAILED),
    ],
)
def test_each_error_has_its_status_and_the_apis_words(error: errors.SluiceError, status: JobStatus):
    outcome = outcome_of_error(error)
    assert (outcome.status, outcome.event) == (status, f"job.{status}")
    assert outcome.error is not None
    rule = ERROR_TABLE[type(error)]
    assert (outcome.error.type, outcome.error.code) == (rule.type, rule.code)
    assert outcome.error.param == getattr(error, "param", None)


def test_what_was_refused_is_said():
    safety = outcome_of_error(REFUSED).safety
    assert safety is not None
    assert (safety["category"], safety["image_index"]) == ("x", 1)
    assert "picture" not in safety


def test_a_picture_that_was_refused_is_named_by_its_field():
    error = errors.ContentPolicyViolation(
        "refused", stage="picture", category="x", score=0.9, threshold=0.5, picture="image"
    )
    safety = outcome_of_error(error).safety
    assert safety is not None
    assert (safety["stage"], safety["picture"]) == ("picture", "image")
    told = error_body(error)["error"]
    assert (told["stage"], told["picture"]) == ("picture", "image")
    assert "image_index" not in told


def test_tokens_of_pictures_are_told_apart():
    usage = Usage(input_tokens=40, output_tokens=16, input_image_tokens=8)
    said = outcome_of_result(GenerationResult(images=(), usage=usage, timings={})).usage
    assert said is not None
    assert (said.input_tokens, said.input_image_tokens) == (40, 8)
    details = usage_report(usage).input_tokens_details
    assert (details.text_tokens, details.image_tokens) == (32, 8)


def test_a_full_server_is_waited_for_as_long_as_it_says_and_not_for_ever():
    budget = RetryBudget(patience_s=60.0)
    pauses: list[float] = []
    while (pause := budget.pause_s(errors.Overloaded("full", retry_after_s=20.0))) is not None:
        pauses.append(pause)
    assert pauses == [20.0, 20.0, 20.0]


def test_a_stage_that_keeps_failing_is_tried_three_times():
    budget = RetryBudget()
    pauses = [budget.pause_s(errors.StageLost("lost", stage="Denoiser")) for _ in range(3)]
    assert pauses == [0.5, 1.0, None]


def test_pauses_grow():
    budget = RetryBudget()
    pauses = [budget.pause_s(errors.NotReady("asleep")) for _ in range(8)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE_S


@pytest.mark.parametrize(
    "error",
    [
        errors.DeadlineUnreachable("no", earliest_s=1.0, retry_after_s=1.0),
        errors.DegenerateImage("black"),
        errors.CheckpointError("damaged"),
        REFUSED,
    ],
)
def test_what_time_does_not_heal_is_not_tried_again(error: errors.SluiceError):
    assert RetryBudget().pause_s(error) is None
