"""Errors survive the trip between processes."""

from __future__ import annotations

import pickle  # noqa: TID251  what Ray does to an exception, reproduced
from collections.abc import Iterator

import pytest

from pipelines import errors


def tree(cls: type[errors.SluiceError]) -> Iterator[type[errors.SluiceError]]:
    for child in cls.__subclasses__():
        # Tests elsewhere may define errors of their own.
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


EXAMPLES = [
    errors.InvalidRequest("too big", param="size"),
    errors.UnsupportedFeature("not here", param="stream"),
    errors.RequestTooLarge("too large"),
    errors.BodyTimeout("slow"),
    errors.HeadersTooLarge("long"),
    errors.UriTooLong("long"),
    errors.ModelNotFound("none", model="x"),
    errors.FileNotStored("none", file_id="x"),
    errors.TraceNotKept("m"),
    errors.JobNotFound("none"),
    errors.JobConflict("over"),
    errors.IdempotencyKeyReused("again"),
    errors.StoreUnavailable("away", retry_after_s=2.5),
    errors.DeliveryNotFound("none"),
    errors.ContentPolicyViolation(
        "no", stage="image", category="sexual", score=0.9, threshold=0.8, image_index=1
    ),
    errors.DegenerateImage("flat"),
    errors.Overloaded("full", retry_after_s=1.5),
    errors.DeadlineUnreachable("too soon", earliest_s=2.5),
    errors.NotReady("starting"),
    errors.RequestTimeout("late"),
    errors.StageFailed("broken", stage="Denoiser"),
    errors.StageLost("gone", stage="Denoiser"),
    errors.CheckpointError("missing"),
    errors.ConfigurationError("impossible"),
]


def test_every_error_has_an_example_and_a_line_in_the_drawn_tree() -> None:
    assert {type(error) for error in EXAMPLES} == set(tree(errors.SluiceError))
    for cls in tree(errors.SluiceError):
        assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_cross_process_boundaries_whole(error: errors.SluiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.fields == error.fields
    assert vars(copy) == vars(error)
