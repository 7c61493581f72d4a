"""Which task a request is, and which served model does it: pure.

What comes with a prompt decides: pictures, a mask, maps, a strength, the prefix in the prompt. The
first task that fits and that a model here does is taken; where there is none, the error names
models that would do it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipelines import catalog
from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.task_rules import RULES
from pipelines.tasks import PictureRole, Task

IMAGES, REFERENCES = "image", "reference_image"

_WHAT: dict[Task, str] = {
    Task.TEXT_TO_IMAGE: "draws from words alone",
    Task.IMAGE_TO_IMAGE: "draws from an image and a strength",
    Task.INPAINT: "draws anew inside a mask",
    Task.EDIT: "edits a picture by instruction",
    Task.EDIT_INPAINT: "edits by instruction inside a mask",
    Task.FILL: "fills a mask",
    Task.CONTROL: "goes by a control map",
    Task.VARIATION: "varies a picture",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatCame:
    """What a request brings besides words. `maps` are the kinds of its control maps, "" for one
    that says none."""

    images: int = 0
    references: int = 0
    has_mask: bool = False
    has_outpaint: bool = False
    maps: tuple[str, ...] = ()
    has_strength: bool = False
    prefix: Literal["gen", "edit"] | None = None
    is_variation: bool = False

    @property
    def has_area(self) -> bool:
        """Whether a part of an image is to be drawn anew."""
        return self.has_mask or self.has_outpaint


class Choice(NamedTuple):
    """A task, and the model that does it."""

    task: Task
    spec: ModelSpec


def choose_task(
    came: WhatCame, served: Sequence[ModelSpec], *, control_kinds: Collection[str] = ()
) -> Choice:
    """The task of a request, on one of the `served` models, whose ControlNets follow maps of
    `control_kinds`.

    Raises InvalidRequest where what came does not fit together, naming the field that is missing or
    too much, and UnsupportedFeature for what no served model does, naming models that would.
    """
    _check_needs(came)
    fitting = _fitting(came)
    for task in fitting:
        for spec in served:
            if task in spec.tasks and _can_follow(came, task, control_kinds):
                _check_counts(came, task)
                return Choice(task, spec)
    raise _nobody_does(came, fitting, served, control_kinds)


def _check_needs(came: WhatCame) -> None:
    """Raises InvalidRequest for parts that need an image, where there is none."""
    needs = (
        ("mask", came.has_mask),
        ("outpaint", came.has_outpaint),
        ("strength", came.has_strength),
    )
    for name, is_given in needs:
        if is_given and not came.images:
            raise InvalidRequest(
                f"{name}: needs an image beside it; send it as `image`", param=name
            )
    if came.is_variation and not came.images:
        raise InvalidRequest("image: required, and it is missing", param="image")
    if came.is_variation and (came.has_area or came.maps or came.references):
        name = "mask" if came.has_mask else "outpaint" if came.has_outpaint else ""
        name = name or ("control" if came.maps else REFERENCES)
        raise InvalidRequest(
            f"{name}: a variation has an image alone; POST it to /v1/images/edits", param=name
        )


def _fitting(came: WhatCame) -> tuple[Task, ...]:
    """The tasks that could be meant, the likeliest first."""
    is_edit = came.prefix == "edit"
    if came.is_variation:
        return (Task.VARIATION, Task.IMAGE_TO_IMAGE)
    if came.has_area:
        if came.references:
            return (Task.EDIT_INPAINT,)
        if is_edit:
            return (Task.EDIT_INPAINT, Task.FILL, Task.INPAINT)
        return (Task.FILL, Task.INPAINT, Task.EDIT_INPAINT)
    if came.references or came.images > 1:
        return (Task.EDIT,)
    if came.images and is_edit:
        return (Task.EDIT,)
    if came.images:
        from_image = came.has_strength or bool(came.maps)
        return (Task.IMAGE_TO_IMAGE,) if from_image else (Task.EDIT, Task.IMAGE_TO_IMAGE)
    return (Task.CONTROL, Task.TEXT_TO_IMAGE) if came.maps else (Task.TEXT_TO_IMAGE,)


def _can_follow(came: WhatCame, task: Task, control_kinds: Collection[str]) -> bool:
    """Whether `task` takes the control maps, by ControlNets or by itself."""
    if not came.maps or task is Task.CONTROL:
        return True
    return RULES[task].takes_controls and bool(control_kinds)


def _check_counts(came: WhatCame, task: Task) -> None:
    """Raises InvalidRequest for more pictures of a field than `task` takes."""
    rule = RULES[task]
    most = rule.count(PictureRole.REFERENCE).most
    if task in (Task.EDIT, Task.VARIATION):
        if came.images + came.references > most:
            field = IMAGES if came.images else REFERENCES
            raise _too_many(field, came.images + came.references, most, task)
    elif came.images > 1:
        raise _too_many(IMAGES, came.images, 1, task)
    elif came.references > most:
        raise _too_many(REFERENCES, came.references, most, task)
    if len(came.maps) > (most := rule.count(PictureRole.CONTROL).most):
        raise _too_many("control", len(came.maps), most, task)


def _too_many(field: str, count: int, most: int, task: Task) -> InvalidRequest:
    takes = f"at most {most}" if most else "none"
    return InvalidRequest(
        f"{field}: {count} pictures, and a model that {_WHAT[task]} takes {takes}; leave the others"
        " out",
        param=field,
    )


def kind_of(kind: str, control_kinds: Iterable[str], *, name: str) -> str:
    """The kind of a map for ControlNets: the one that is written, or the only one that is served.

    Raises InvalidRequest for another, naming those that are.
    """
    known = sorted(control_kinds)
    if kind in known:
        return kind
    if not kind and len(known) == 1:
        return known[0]
    said = f"{kind!r} is no kind that is followed here" if kind else "names no `kind`"
    raise InvalidRequest(f"{name}: {said}; write one of {', '.join(known)}", param="control")


def _nobody_does(
    came: WhatCame,
    fitting: Sequence[Task],
    served: Sequence[ModelSpec],
    control_kinds: Collection[str],
) -> UnsupportedFeature:
    task = fitting[0]
    field = _deciding_field(came)
    if came.maps and not control_kinds and not any(Task.CONTROL in spec.tasks for spec in served):
        field, lacks = "control", "no ControlNet is served here"
    else:
        names = ", ".join(spec.name for spec in served)
        lacks = f"{names} does not do that: a model is needed that {_WHAT[task]}"
    able = [
        spec.name
        for spec in catalog.models().values()
        if any(task in spec.tasks and _can_follow(came, task, control_kinds) for task in fitting)
    ]
    kind = "variations" if came.is_variation else "controlnet" if came.maps else None
    able += [each.name for each in catalog.add_ons().values() if each.kind == kind]
    add = f"; its operator can add {' or '.join(able)}" if able else ""
    return UnsupportedFeature(f"{field}: {lacks}{add}", param=field)


def _deciding_field(came: WhatCame) -> str:
    """The field of what came that asks for most."""
    if came.maps:
        return "control"
    if came.has_mask:
        return "mask"
    if came.has_outpaint:
        return "outpaint"
    if came.images:
        return "strength" if came.has_strength else IMAGES
    return REFERENCES if came.references else "prompt"
