"""What each task takes, needs and forbids, and the check of a request against that.

The oracles are diffusers' pipelines (`pipelines.tasks.Task` names them): what a pipeline has no
parameter for, its task refuses. Knows no torch: the ingress checks before anything is drawn, and
the denoiser again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from pipelines.contracts import SamplingParams
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.families import family_named
from pipelines.skipping import first_step
from pipelines.tasks import PictureRole, PictureUse, Task

MAX_REFERENCES = 4
"""Of an edit. diffusers' pipeline takes one; more are more tokens, each at a place of its own."""

MAX_CONTROLS = 4
"""Control maps of one job that ControlNets follow together."""

FIELDS: Mapping[PictureRole, str] = MappingProxyType(
    {
        PictureRole.IMAGE: "image",
        PictureRole.MASK: "mask",
        PictureRole.MASKED_IMAGE: "image",
        PictureRole.REFERENCE: "reference",
        PictureRole.CONTROL: "control",
    }
)
"""The request's field that each role comes from."""


class RoleCount(NamedTuple):
    """How many pictures of a role a task has."""

    least: int
    most: int


ONE, NONE = RoleCount(1, 1), RoleCount(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRule:
    """`roles` are the pictures of a task, in the order in which it has them.

    `takes_strength`, `takes_true_cfg`: whether its pipeline has these parameters. `takes_trades`:
    whether steps may be cut or skipped. `takes_controls`: whether ControlNets may stand beside.
    """

    roles: Mapping[PictureRole, RoleCount]
    takes_strength: bool = False
    takes_true_cfg: bool = True
    takes_trades: bool = False
    takes_controls: bool = False

    def count(self, role: PictureRole) -> RoleCount:
        """How many pictures of a role there may be, control maps of ControlNets included."""
        if role is PictureRole.CONTROL and self.takes_controls:
            return RoleCount(0, MAX_CONTROLS)
        return self.roles.get(role, NONE)


RULES: Mapping[Task, TaskRule] = MappingProxyType(
    {
        Task.TEXT_TO_IMAGE: TaskRule(roles={}, takes_trades=True, takes_controls=True),
        Task.IMAGE_TO_IMAGE: TaskRule(
            roles={PictureRole.IMAGE: ONE}, takes_strength=True, takes_controls=True
        ),
        Task.INPAINT: TaskRule(
            roles={PictureRole.IMAGE: ONE, PictureRole.MASK: ONE},
            takes_strength=True,
            takes_controls=True,
        ),
        Task.EDIT: TaskRule(
            roles={PictureRole.REFERENCE: RoleCount(0, MAX_REFERENCES)}, takes_trades=True
        ),
        Task.EDIT_INPAINT: TaskRule(
            roles={
                PictureRole.IMAGE: ONE,
                PictureRole.MASK: ONE,
                PictureRole.REFERENCE: RoleCount(0, 1),
            },
            takes_strength=True,
        ),
        Task.FILL: TaskRule(
            roles={
                PictureRole.IMAGE: ONE,
                PictureRole.MASK: ONE,
                PictureRole.MASKED_IMAGE: ONE,
            },
            takes_strength=True,
            takes_true_cfg=False,
        ),
        Task.CONTROL: TaskRule(roles={PictureRole.CONTROL: ONE}, takes_true_cfg=False),
        Task.VARIATION: TaskRule(
            roles={PictureRole.REFERENCE: ONE}, takes_true_cfg=False, takes_trades=True
        ),
    }
)


def check_task(sampling: SamplingParams, spec_tasks: Collection[str]) -> None:
    """Refuse what the task of `sampling` cannot do, on a model that does `spec_tasks`.

    Raises UnsupportedFeature for a task that is not among these or a parameter that the task's
    pipeline has not, InvalidRequest for pictures that are missing, too many or of another size, and
    for a strength that leaves no step. Each names the request's field in `param`.
    """
    task, rule = sampling.task, RULES[sampling.task]
    if task not in spec_tasks:
        raise UnsupportedFeature(
            f"task: this model does no {task}; it does {', '.join(spec_tasks)}", param="task"
        )
    if sampling.uses_true_cfg and not rule.takes_true_cfg:
        raise _unsupported(task, "true_cfg_scale", "has no negative prompt")
    has_controls = task is not Task.CONTROL and _has(sampling, PictureRole.CONTROL)
    for param, asked in (
        ("min_steps", sampling.min_inference_steps is not None),
        ("step_cuts", bool(sampling.planned_cuts)),
        ("skip_steps", sampling.skips_steps),
    ):
        if asked and (has_controls or not rule.takes_trades):
            raise _unsupported(task, param, "with such pictures runs all its steps")
    _check_strength(sampling, rule)
    _check_counts(sampling, rule)
    for use in sampling.pictures:
        _check_use(sampling, use)


def least_strength(num_steps: int) -> float:
    """A strength that leaves one step of `num_steps`, and so does any below it but 0."""
    return 1 / num_steps


def _check_strength(sampling: SamplingParams, rule: TaskRule) -> None:
    strength, steps = sampling.strength, sampling.num_inference_steps
    if not rule.takes_strength:
        if strength != 1.0:
            raise _unsupported(sampling.task, "strength", "starts from noise alone")
        return
    if not 0.0 <= strength <= 1.0:  # refuses nan, too
        raise InvalidRequest(f"strength: {strength} is not in 0..1", param="strength")
    if first_step(steps, strength) >= steps:
        least = math.ceil(least_strength(steps) * 1000) / 1000
        raise InvalidRequest(
            f"strength: {strength} leaves none of {steps} steps; any up to {least:g}"
            " leaves one, and 1 all of them",
            param="strength",
        )


def _check_counts(sampling: SamplingParams, rule: TaskRule) -> None:
    found = Counter(use.role for use in sampling.pictures)
    for role in PictureRole:
        least, most = rule.count(role)
        if found[role] < least:
            raise InvalidRequest(
                f"{FIELDS[role]}: {sampling.task} needs one ({role}); send it", param=FIELDS[role]
            )
        if found[role] > most:
            takes = f"at most {most}" if most else "none"
            raise InvalidRequest(
                f"{FIELDS[role]}: {sampling.task} takes {takes} ({role}), not {found[role]}",
                param=FIELDS[role],
            )


def _check_use(sampling: SamplingParams, use: PictureUse) -> None:
    field, multiple = FIELDS[use.role], family_named(sampling.family).size_multiple
    if use.role is not PictureRole.REFERENCE:
        if (use.height, use.width) != (sampling.height, sampling.width):
            raise InvalidRequest(
                f"{field}: is to be encoded at {use.width}x{use.height}, and drawn at"
                f" {sampling.width}x{sampling.height}: both must be one",
                param=field,
            )
    elif sampling.task is Task.VARIATION:
        return  # seen as a whole, whatever its size
    elif use.height <= 0 or use.width <= 0 or use.height % multiple or use.width % multiple:
        raise InvalidRequest(
            f"{field}: {use.width}x{use.height} is not in multiples of {multiple} pixels",
            param=field,
        )
    if use.role is PictureRole.CONTROL:
        _check_control(use)


def _check_control(use: PictureUse) -> None:
    if not (math.isfinite(use.scale) and use.scale >= 0):
        raise InvalidRequest(f"control: scale is {use.scale}, not 0 or more", param="control")
    if not 0 <= use.start < use.end <= 1:
        raise InvalidRequest(
            f"control: acts from {use.start} to {use.end}; start must be below end, in 0..1",
            param="control",
        )


def _has(sampling: SamplingParams, role: PictureRole) -> bool:
    return any(use.role is role for use in sampling.pictures)


def _unsupported(task: Task, param: str, reason: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{param}: {task} {reason}; leave {param} out", param=param)
