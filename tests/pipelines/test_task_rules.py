"""What each task takes, before anything is drawn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from pipelines.contracts import Cut, SamplingParams
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.job_shape import JobShape, shape_of
from pipelines.skipping import first_step, forwards_of
from pipelines.task_rules import RULES, check_task
from pipelines.tasks import PictureRole, PictureUse, Task

ALL = tuple(Task)
PLAIN = SamplingParams(height=64, width=128, num_inference_steps=28, guidance_scale=3.5, seed=1)


def use(role: PictureRole, height: int = 64, width: int = 128, **fields: Any) -> PictureUse:
    return PictureUse(role=role, height=height, width=width, **fields)


def job(task: Task, *roles: PictureRole, **changes: Any) -> SamplingParams:
    return replace(PLAIN, task=task, pictures=tuple(map(use, roles)), **changes)


IMAGE, MASK, MASKED, REFERENCE, CONTROL = PictureRole
GOOD = {
    Task.TEXT_TO_IMAGE: (),
    Task.IMAGE_TO_IMAGE: (IMAGE,),
    Task.INPAINT: (IMAGE, MASK),
    Task.EDIT: (REFERENCE,),
    Task.EDIT_INPAINT: (IMAGE, MASK),
    Task.FILL: (IMAGE, MASK, MASKED),
    Task.CONTROL: (CONTROL,),
    Task.VARIATION: (REFERENCE,),
}


@pytest.mark.parametrize("task", Task)
def test_each_task_takes_what_its_pipeline_takes(task: Task) -> None:
    good = job(task, *GOOD[task])
    check_task(good, ALL)
    with pytest.raises(UnsupportedFeature, match="this model does no") as refused:
        check_task(good, [each for each in Task if each is not task])
    assert refused.value.param == "task"
    rule = RULES[task]
    for param, changes, allowed in (
        ("strength", {"strength": 0.5}, rule.takes_strength),
        ("true_cfg_scale", {"true_cfg_scale": 2.0}, rule.takes_true_cfg),
        ("min_steps", {"min_inference_steps": 5}, rule.takes_trades),
        ("step_cuts", {"planned_cuts": (Cut(2, 10),)}, rule.takes_trades),
        ("skip_steps", {"skips_steps": True}, rule.takes_trades),
    ):
        if allowed:
            check_task(replace(good, **changes), ALL)
            continue
        with pytest.raises(UnsupportedFeature, match=f"^{param}: ") as refused:
            check_task(replace(good, **changes), ALL)
        assert refused.value.param == param


def test_the_rules_are_those_of_diffusers() -> None:
    strong = {Task.IMAGE_TO_IMAGE, Task.INPAINT, Task.EDIT_INPAINT, Task.FILL}
    assert {task for task in Task if RULES[task].takes_strength} == strong
    unguided = {Task.FILL, Task.CONTROL, Task.VARIATION}
    assert {task for task in Task if not RULES[task].takes_true_cfg} == unguided
    beside = {Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINT}
    assert {task for task in Task if RULES[task].takes_controls} == beside


@pytest.mark.parametrize(
    ("sampling", "param", "said"),
    [
        (job(Task.INPAINT, IMAGE), "mask", "inpaint needs one"),
        (job(Task.INPAINT, MASK), "image", "needs one"),
        (job(Task.FILL, IMAGE, MASK), "image", "needs one"),
        (job(Task.TEXT_TO_IMAGE, IMAGE), "image", "takes none"),
        (job(Task.IMAGE_TO_IMAGE, IMAGE, IMAGE), "image", "takes at most 1"),
        (job(Task.EDIT, *[REFERENCE] * 5), "reference", "takes at most 4 .*, not 5"),
        (job(Task.EDIT, REFERENCE, CONTROL), "control", "takes none"),
        (job(Task.TEXT_TO_IMAGE, *[CONTROL] * 5), "control", "at most 4"),
        (job(Task.CONTROL, CONTROL, CONTROL), "control", "at most 1"),
        (job(Task.TEXT_TO_IMAGE, CONTROL, skips_steps=True), "skip_steps", "runs all its steps"),
        (job(Task.IMAGE_TO_IMAGE, IMAGE, strength=-0.1), "strength", "not in 0..1"),
        (job(Task.IMAGE_TO_IMAGE, IMAGE, strength=1.1), "strength", "not in 0..1"),
        (job(Task.IMAGE_TO_IMAGE, IMAGE, strength=float("nan")), "strength", "not in 0..1"),
        (
            job(Task.IMAGE_TO_IMAGE, IMAGE, strength=0.0),
            "strength",
            "leaves none of 28 steps; any up to 0.036 leaves one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(
    sampling: SamplingParams, param: str, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_task(sampling, ALL)
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("picture", "task", "param"),
    [
        (use(IMAGE, 64, 64), Task.IMAGE_TO_IMAGE, "image"),
        (use(REFERENCE, 64, 72), Task.EDIT, "reference"),
        (use(REFERENCE, 0, 64), Task.EDIT, "reference"),
        (use(CONTROL, scale=-1.0), Task.CONTROL, "control"),
        (use(CONTROL, scale=float("inf")), Task.CONTROL, "control"),
        (use(CONTROL, start=0.5, end=0.5), Task.CONTROL, "control"),
        (use(CONTROL, end=1.5), Task.CONTROL, "control"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(
    picture: PictureUse, task: Task, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_task(replace(PLAIN, task=task, pictures=(picture,)), ALL)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("steps", "strength", "forwards"),
    [
        (28, 1.0, 28),
        (28, 0.001, 1),
        (28, 0.5, 14),
        (25, 0.56, 15),
        (50, 0.56, 29),
        (4, 0.26, 2),
        (1, 0.2, 1),
        (28, 0.0, 0),
    ],
)
def test_strength_leaves_as_many_forwards_as_in_diffusers(
    steps: int, strength: float, forwards: int
) -> None:
    changes = {"num_inference_steps": steps, "strength": strength}
    sampling = job(Task.IMAGE_TO_IMAGE, IMAGE, **changes)
    assert steps - first_step(steps, strength) == forwards_of(sampling) == forwards
    assert shape_of(sampling).forwards == forwards


def test_pictures_count_where_they_are_tokens() -> None:
    own = 4 * 8
    edit = job(Task.EDIT, REFERENCE, REFERENCE)
    assert shape_of(edit) == JobShape(own, 1, 28, context_tokens=2 * own)
    assert shape_of(edit).tokens(10) == (3 * own + 10,)
    assert shape_of(job(Task.EDIT_INPAINT, IMAGE, MASK)).context_tokens == own
    small = replace(
        job(Task.EDIT_INPAINT, IMAGE, MASK),
        pictures=(use(IMAGE), use(MASK), use(REFERENCE, 32, 32)),
    )
    assert shape_of(small).context_tokens == 4
    assert shape_of(job(Task.VARIATION, REFERENCE)).context_tokens == 729
    for task in (Task.IMAGE_TO_IMAGE, Task.INPAINT, Task.FILL, Task.CONTROL):
        assert shape_of(job(task, *GOOD[task])).context_tokens == 0


def test_the_module_needs_no_torch_and_no_pil() -> None:
    code = (
        "import sys, pipelines.task_rules, pipelines.pictures.recipe;"
        " sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
