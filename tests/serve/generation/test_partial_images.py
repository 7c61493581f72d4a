from __future__ import annotations

import pytest

from deployments.graph.listening.events import ImagePreview, Phase, Progress
from serve.generation.partial_images import PartialImage, PartialImages, place_of


def preview(step: int, *, image: int = 0, num_steps: int = 12) -> ImagePreview:
    return ImagePreview(
        image=image,
        step=step,
        num_steps=num_steps,
        data=b"",
        media_type="image/jpeg",
        width=64,
        height=64,
    )


def shown(steps: list[int], per_image: int, num_steps: int) -> list[tuple[int, int]]:
    """(place, step) of what is handed out of previews after these steps."""
    found: list[PartialImage] = []
    listener = PartialImages(1, per_image, found.append)
    for step in steps:
        listener(preview(step, num_steps=num_steps))
    return [(partial.index, partial.preview.step) for partial in found]


@pytest.mark.parametrize(
    ("per_image", "num_steps", "expected"),
    [
        (1, 12, [(0, 6)]),
        (2, 12, [(0, 4), (1, 8)]),
        (3, 12, [(0, 3), (1, 6), (2, 9)]),
        (3, 4, [(0, 1), (1, 2), (2, 3)]),
        (2, 10, [(0, 3), (1, 7)]),
        (3, 50, [(0, 12), (1, 25), (2, 37)]),
        (0, 12, []),
    ],
)
def test_they_are_spread_evenly(per_image: int, num_steps: int, expected: list[tuple[int, int]]):
    assert shown(list(range(1, num_steps + 1)), per_image, num_steps) == expected


def test_where_the_decoder_was_busy_there_are_fewer():
    assert shown([5, 11], 3, 12) == [(0, 5), (2, 11)]
    assert shown([1, 2], 3, 12) == []
    assert shown([11, 12], 1, 12) == [(0, 11)]


def test_each_place_is_taken_once_also_by_a_schedule_that_gets_shorter():
    found: list[PartialImage] = []
    listener = PartialImages(1, 2, found.append)
    listener(preview(4))
    listener(preview(5))
    listener(preview(5, num_steps=7))
    listener(preview(6, num_steps=7))
    assert [partial.index for partial in found] == [0, 1]


def test_few_steps_have_few_places():
    assert shown([1], 3, 1) == [(2, 1)]
    assert [place_of(step, 2, 3) for step in (0, 1, 2)] == [0, 2, 2]


def test_previews_are_wanted_until_the_last_image_has_its_own():
    found: list[PartialImage] = []
    listener = PartialImages(2, 1, found.append)
    assert listener.wants_previews
    listener(preview(6, image=1))
    assert listener.wants_previews
    listener(Progress(image=0, phase=Phase.DENOISE, step=6, num_steps=12))
    assert listener.wants_previews
    listener(preview(7, image=0))
    assert not listener.wants_previews
    assert [partial.preview.image for partial in found] == [1, 0]
    assert not PartialImages(2, 0, found.append).wants_previews
