"""From a task and its pictures to what the denoiser draws from, and to how it is encoded: pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import NO_PADDING, Padding, PictureRecipe
from pipelines.tasks import PictureRole, PictureUse, Task
from serve.api.pictures.choosing_task import kind_of
from serve.api.pictures.fields import PictureFields, background_rgb
from serve.api.pictures.picture import Picture, Pictures
from serve.api.sizes import Ratio, Size, SizeRules

_ROLES: dict[Task, tuple[PictureRole, ...]] = {
    Task.IMAGE_TO_IMAGE: (PictureRole.IMAGE,),
    Task.INPAINT: (PictureRole.IMAGE, PictureRole.MASK),
    Task.EDIT_INPAINT: (PictureRole.IMAGE, PictureRole.MASK, PictureRole.REFERENCE),
    Task.FILL: (PictureRole.IMAGE, PictureRole.MASK, PictureRole.MASKED_IMAGE),
    Task.EDIT: (PictureRole.REFERENCE,),
    Task.VARIATION: (PictureRole.REFERENCE,),
}
"""In the order of `pipelines.task_rules.RULES`; control maps stand behind them."""


class Sources(NamedTuple):
    """What a job draws from: `uses` and `recipes` of the same pictures, in one order."""

    uses: tuple[PictureUse, ...] = ()
    recipes: tuple[PictureRecipe, ...] = ()


def padded_size(image: Picture, padding: Padding) -> Size:
    """In pixels, with what outpainting adds."""
    return Size(
        image.size.height + padding.top + padding.bottom,
        image.size.width + padding.left + padding.right,
    )


def size_of_input(
    task: Task, pictures: Pictures, padding: Padding, rules: SizeRules, spec: ModelSpec
) -> Size | None:
    """The size that `auto` is, of the input's ratio to within a grid step; None without an input.

    What starts from an image has the image's own size, as far as it is allowed. An edit has the
    model's own area, unless its model was trained on the input's size.
    """
    leading = (*pictures.images, *pictures.references, *pictures.control)
    if not leading:
        return None
    first = leading[0]
    if task in (Task.EDIT, Task.VARIATION):
        return fitted(first, rules, spec)
    return rules.nearest(padded_size(first, padding))


def fitted(picture: Picture, rules: SizeRules, spec: ModelSpec) -> Size:
    """The size in which a picture that is looked at is encoded: of its ratio, and of the model's
    own area, unless the model was trained on its size as it is."""
    own = picture.size
    if tuple(own) in spec.trained_sizes:
        return own
    try:
        return rules.for_ratio(Ratio(own.width, own.height, picture.name, str(own)), rules.default)
    except InvalidRequest:  # of a ratio that no allowed size has
        return rules.nearest(own)


def sources_of(
    task: Task,
    pictures: Pictures,
    request: PictureFields,
    size: Size,
    *,
    background: str,
    rules: SizeRules,
    spec: ModelSpec,
    control_kinds: Collection[str],
) -> Sources:
    """What a job of `task` draws from, at `size`. Raises InvalidRequest, naming the field."""
    padding = NO_PADDING if request.outpaint is None else request.outpaint.padding
    _check_mask(pictures)
    colour = background_rgb(background)

    def recipe(use: PictureUse, source: Picture | None, mask: Picture | None) -> PictureRecipe:
        return PictureRecipe(
            use=use,
            source=None if source is None else source.source,
            mask=None if mask is None else mask.source,
            mask_meaning=pictures.mask_meaning if use.role in _MASKED else "white",
            padding=NO_PADDING if use.role in _UNPADDED else padding,
            background=colour,
        )

    recipes: list[PictureRecipe] = []
    for role in _ROLES.get(task, ()):
        if role is PictureRole.REFERENCE:
            for each in _looked_at(task, pictures):
                own = fitted(each, rules, spec)
                use = PictureUse(role=role, height=own.height, width=own.width)
                recipes.append(recipe(use, each, None))
            continue
        use = PictureUse(role=role, height=size.height, width=size.width)
        source = pictures.mask if role is PictureRole.MASK else pictures.images[0]
        mask = pictures.mask if role is PictureRole.MASKED_IMAGE else None
        recipes.append(recipe(use, source, mask))
    for index, (entry, each) in enumerate(
        zip(request.control or (), pictures.control, strict=True)
    ):
        name = "control" if len(pictures.control) == 1 else f"control[{index}]"
        if entry.start >= entry.end:
            raise InvalidRequest(f"{name}: start must be below end", param="control")
        kind = entry.kind
        if task is not Task.CONTROL:
            kind = kind_of(entry.kind, control_kinds, name=name)
        use = PictureUse(
            role=PictureRole.CONTROL,
            height=size.height,
            width=size.width,
            kind=kind,
            scale=entry.scale,
            start=entry.start,
            end=entry.end,
        )
        recipes.append(recipe(use, each, None))
    return Sources(tuple(each.use for each in recipes), tuple(recipes))


_MASKED = (PictureRole.MASK, PictureRole.MASKED_IMAGE)
_UNPADDED = (PictureRole.REFERENCE, PictureRole.CONTROL)


def _looked_at(task: Task, pictures: Pictures) -> Sequence[Picture]:
    """The references of an edit: the image itself among them, unless it is what is drawn over."""
    if task is Task.EDIT_INPAINT:
        return pictures.references
    return (*pictures.images, *pictures.references)


def _check_mask(pictures: Pictures) -> None:
    """Raises InvalidRequest for a mask of another size than the image."""
    if pictures.mask is None or not pictures.images:
        return
    image, mask = pictures.images[0], pictures.mask
    if image.size != mask.size:
        raise InvalidRequest(
            f"{mask.name}: is {mask.size} pixels, and {image.name} {image.size}; send a mask as"
            " large as the image",
            param=mask.name,
        )
