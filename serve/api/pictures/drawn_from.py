"""What a request draws from, every value final: its task, size, strength and pictures. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.pictures.recipe import NO_PADDING, Padding
from pipelines.prompts.syntax import ParsedPrompt
from pipelines.skipping import first_step
from pipelines.task_rules import RULES, TaskRule
from pipelines.tasks import PictureRole, Task
from serve.api.pictures.choosing_task import WhatCame, choose_task
from serve.api.pictures.picture import Pictures
from serve.api.pictures.sources import Sources, padded_size, size_of_input, sources_of
from serve.api.problems import Problems
from serve.api.schemas import ImageGenerationRequest
from serve.api.sizes import Ratio, Size, SizeRules
from serve.api.values import check_number

IMAGE_STRENGTH = 0.6
"""Of image to image where the request says none, as diffusers has it. What is drawn anew inside of
a mask is drawn from noise alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrom:
    """What a request draws from. With `pastes_back` the rest of its image stays as it is."""

    task: Task
    rule: TaskRule
    size: Size
    sources: Sources
    strength: float = 1.0
    pastes_back: bool = False

    @property
    def takes_trades(self) -> bool:
        """Whether steps may be left out."""
        has_controls = any(use.role is PictureRole.CONTROL for use in self.sources.uses)
        return self.rule.takes_trades and not has_controls


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What decides on that besides the pictures: the parsed prompt, the model, and what is served.

    `control_kinds` are the kinds of maps that ControlNets here follow.
    """

    parsed: ParsedPrompt
    spec: ModelSpec
    rules: SizeRules
    control_kinds: Collection[str] = ()


def task_of(request: ImageGenerationRequest, scene: Scene, warnings: list[str]) -> Task:
    """The task. Raises InvalidRequest, UnsupportedFeature."""
    padding = _padding(request)
    has_image = bool(request.image)
    came = WhatCame(
        images=len(request.image or ()),
        references=len(request.reference_image or ()),
        has_mask=request.mask is not None or request.mask_image is not None,
        has_outpaint=padding != NO_PADDING,
        maps=tuple(entry.kind for entry in request.control or ()),
        # 1 says no more than that nothing of an image is kept.
        has_strength=request.strength is not None and (has_image or request.strength != 1),
        prefix=scene.parsed.prefix,
        is_variation=request.is_variation,
    )
    task = choose_task(came, (scene.spec,), control_kinds=scene.control_kinds).task
    if request.strength is not None and not has_image:
        warnings.append("strength: not used without an image")
    if request.input_fidelity is not None:
        instead = "strength says how much of the image is kept"
        if not RULES[task].takes_strength:
            instead = "pictures are looked at as they are"
        warnings.append(f"input_fidelity: not used; {instead}")
    if task is Task.IMAGE_TO_IMAGE and request.is_variation:
        warnings.append(
            f"image: used; no model for variations is served, so that {scene.spec.name} draws"
            " from it, and goes by the prompt alone for what it shows"
        )
    elif task is Task.IMAGE_TO_IMAGE and not came.has_strength and not came.maps:
        warnings.append(
            f"image: used; {scene.spec.name} does not edit by instruction but draws what the prompt"
            " describes, from the image: see strength"
        )
    return task


def drawn_from(
    request: ImageGenerationRequest,
    pictures: Pictures,
    scene: Scene,
    task: Task,
    *,
    steps: int,
    problems: Problems,
    warnings: list[str],
) -> DrawnFrom:
    """All of what a request of `task` draws from; of several mistakes all go into `problems`.

    Raises the first InvalidRequest or UnsupportedFeature.
    """
    size = problems.check(lambda: _size(request, pictures, scene, task, warnings))
    strength = problems.check(lambda: _strength(request, task, steps))
    pastes_back = _pastes_back(request, pictures, task, warnings)
    sources = problems.check(
        lambda: sources_of(
            task,
            pictures,
            request,
            size.value,
            background=request.background,
            rules=scene.rules,
            spec=scene.spec,
            control_kinds=scene.control_kinds,
        )
    )
    drawn = DrawnFrom(
        task=task,
        rule=RULES[task],
        size=size.value,
        sources=sources.value,
        strength=strength.value,
        pastes_back=pastes_back,
    )
    if pastes_back and drawn.size != (seen := padded_size(pictures.images[0], _padding(request))):
        warnings.append(
            f"paste_back: used; the image is fitted from {seen} to {drawn.size} pixels before, so"
            " what is kept is not its own pixels one by one"
        )
    return drawn


def _padding(request: ImageGenerationRequest) -> Padding:
    if request.outpaint is None:
        return NO_PADDING
    if request.outpaint.padding == NO_PADDING:
        raise InvalidRequest(
            "outpaint: adds nothing; write pixels to add, such as {'right': 64}", param="outpaint"
        )
    return request.outpaint.padding


def _size(
    request: ImageGenerationRequest,
    pictures: Pictures,
    scene: Scene,
    task: Task,
    warnings: list[str],
) -> Size:
    """The size, which a ratio, or the input where neither is named, may decide."""
    spec, rules, parsed = scene.spec, scene.rules, scene.parsed
    ratios = [Ratio.in_prompt(parsed.aspect_ratio)] if parsed.aspect_ratio else []
    if request.aspect_ratio is not None:
        ratios.append(Ratio.parse(request.aspect_ratio))
    by_input = None
    if request.size == "auto" and not ratios:
        if pictures.problems:
            raise pictures.problems[0]
        by_input = size_of_input(task, pictures, _padding(request), rules, spec)
    size = by_input or rules.choose(request.size, ratios)
    if pictures.images and PictureRole.IMAGE in RULES[task].roles and by_input is None:
        seen = padded_size(pictures.images[0], _padding(request))
        if abs(size.width / size.height - seen.width / seen.height) > _SLACK * min(
            1, size.width / size.height
        ):
            warnings.append(f"size: used; the image is stretched from {seen} to {size}")
    if spec.trained_sizes and size not in spec.trained_sizes:
        warnings.append(_untrained(request, ratios, size, scene, by_input=by_input is not None))
    return size


_SLACK = 0.05
"""Share by which ratios may differ without a word."""


def _untrained(
    request: ImageGenerationRequest,
    ratios: list[Ratio],
    size: Size,
    scene: Scene,
    *,
    by_input: bool,
) -> str:
    """Advice about a size that is used all the same, under the field that asks for it."""
    known = ", ".join(str(Size(*each)) for each in scene.spec.trained_sizes)
    advice = f"{scene.spec.name} draws worse at sizes other than {known}"
    if by_input:
        return f"size: used; it is {size}, by the input, and {advice}"
    if request.size != "auto" or not ratios:
        return f"size: used; {advice}"
    return f"{ratios[0].field}: used; {ratios[0].written} is {size} here, and {advice}"


def _strength(request: ImageGenerationRequest, task: Task, steps: int) -> float:
    """The final strength. Raises InvalidRequest for one that leaves no step, UnsupportedFeature
    where the task has none."""
    if request.strength is None:
        return IMAGE_STRENGTH if task is Task.IMAGE_TO_IMAGE else 1.0
    strength = check_number("strength", request.strength, 1.0)
    if not RULES[task].takes_strength:
        if strength == 1.0:
            return strength
        raise UnsupportedFeature(
            f"strength: {task} looks at pictures and draws from noise; leave it out",
            param="strength",
        )
    if first_step(steps, strength) >= steps:
        raise InvalidRequest(
            f"strength: {strength:g} of {steps} steps leaves none; write more, such as"
            f" {_rounded_up(1 / steps):g} for one step",
            param="strength",
        )
    return strength


def _rounded_up(share: float) -> float:
    return min(1.0, -(-share * 1000 // 1) / 1000)


def _pastes_back(
    request: ImageGenerationRequest, pictures: Pictures, task: Task, warnings: list[str]
) -> bool:
    has_area = PictureRole.MASK in RULES[task].roles
    if request.paste_back is not None and not has_area:
        warnings.append("paste_back: not used without a mask or outpaint")
    return has_area and request.paste_back is not False and bool(pictures.images)
