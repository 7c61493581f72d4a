"""Which images of a batch are drawn together, and what is encoded."""

from __future__ import annotations

from benchmarks.baselines.grouping import ImageTask, Shape, groups, prompts_of

SMALL, WIDE = Shape(64, 64, 10, 3.5), Shape(64, 96, 10, 3.5)


def task(prompt: str, shape: Shape = SMALL, seed: int = 0) -> ImageTask:
    return ImageTask(prompt=prompt, seed=seed, shape=shape)


def test_images_of_one_shape_are_one_group_and_the_oldest_is_first():
    tasks = [task("a", WIDE), task("b"), task("c", WIDE), task("d")]
    assert groups(tasks) == [[0, 2], [1, 3]]


def test_other_steps_or_guidance_are_another_group():
    shapes = [SMALL, SMALL._replace(steps=11), SMALL._replace(guidance=2.0), SMALL]
    assert groups([task("a", shape) for shape in shapes]) == [[0, 3], [1], [2]]


def test_a_prompt_is_encoded_once():
    prompts = prompts_of([task("a", seed=1), task("b"), task("a", seed=2)])
    assert prompts.unique == ["a", "b"]
    assert prompts.index == [0, 1, 0]
