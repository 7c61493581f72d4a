"""The pictures of a stored request: in words that a body has, and all of what is made of them.

The words are for people and for a request like it; what is drawn is decided by the rest, under the
one key `pictures`, which clients are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from pipelines.pictures.recipe import NO_PADDING, Padding, PictureRecipe, PictureSource
from pipelines.task_rules import RULES
from pipelines.tasks import PictureRole, PictureUse, Task
from serve.generation.plan import Plan

PICTURES = "pictures"

_NAME = re.compile(r"(?P<field>[a-z_]+)(\[[0-9]+\])?")
_SEVERAL = ("image", "reference_image")
_WHITE = (255, 255, 255)


class StoredPictures(NamedTuple):
    """What a stored request says of pictures."""

    task: Task
    strength: float
    pastes_back: bool
    recipes: tuple[PictureRecipe, ...]

    @property
    def uses(self) -> tuple[PictureUse, ...]:
        return tuple(recipe.use for recipe in self.recipes)


def stored_pictures(plan: Plan) -> dict[str, Any]:
    """Entries of a stored request; none where nothing comes with the prompt."""
    params, recipes = plan.params, plan.recipes
    if params.task is Task.TEXT_TO_IMAGE and not recipes:
        return {}
    return {
        **_words(plan),
        PICTURES: {
            "task": str(params.task),
            "strength": params.strength,
            "pastes_back": plan.finish.pastes_back,
            "recipes": [_recipe_json(recipe) for recipe in recipes],
        },
    }


def read_pictures(request: Mapping[str, Any]) -> StoredPictures:
    """What `stored_pictures` has written into `request`."""
    said = request.get(PICTURES)
    if said is None:
        return StoredPictures(Task.TEXT_TO_IMAGE, 1.0, False, ())
    return StoredPictures(
        Task(said["task"]),
        said["strength"],
        said["pastes_back"],
        tuple(map(_recipe, said["recipes"])),
    )


def input_ids(request: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of a stored request's pictures, each once."""
    recipes = read_pictures(request).recipes
    return tuple(dict.fromkeys(source.file_id for source in _sources(recipes) if source.file_id))


def shown_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """A stored request as clients see it: a body that draws the like."""
    return {name: value for name, value in request.items() if name != PICTURES}


def _words(plan: Plan) -> dict[str, Any]:
    words: dict[str, Any] = {}
    recipes, params = plan.recipes, plan.params
    for source in _sources(recipes):
        found = _NAME.fullmatch(source.name)
        assert found is not None
        field = found["field"]
        if field in _SEVERAL:
            ids: list[str | None] = words.setdefault(field, [])
            ids += [source.file_id]
        elif field != "control":
            words[field] = source.file_id
    maps = [recipe for recipe in recipes if recipe.use.role is PictureRole.CONTROL]
    if maps:
        words["control"] = [_control_words(recipe) for recipe in maps]
    if RULES[params.task].takes_strength:
        words["strength"] = params.strength
    padding = next((each.padding for each in recipes if each.padding != NO_PADDING), None)
    if padding is not None:
        words["outpaint"] = padding._asdict()
    if PictureRole.MASK in RULES[params.task].roles:
        words["paste_back"] = plan.finish.pastes_back
    background = next((each.background for each in recipes), _WHITE)
    if background != _WHITE:
        words["background"] = "#{:02x}{:02x}{:02x}".format(*background)
    return words


def _control_words(recipe: PictureRecipe) -> dict[str, Any]:
    assert recipe.source is not None
    use = recipe.use
    return {
        "image": recipe.source.file_id,
        "kind": use.kind,
        "scale": use.scale,
        "start": use.start,
        "end": use.end,
    }


def _sources(recipes: Iterable[PictureRecipe]) -> list[PictureSource]:
    """Each by its name, once."""
    found: dict[str, PictureSource] = {}
    for recipe in recipes:
        for source in (recipe.source, recipe.mask):
            if source is not None:
                found.setdefault(source.name, source)
    return list(found.values())


def _recipe_json(recipe: PictureRecipe) -> dict[str, Any]:
    assert all(source is None or source.data is None for source in (recipe.source, recipe.mask))
    return {
        "use": {**asdict(recipe.use), "role": str(recipe.use.role)},
        "source": _source_json(recipe.source),
        "mask": _source_json(recipe.mask),
        "mask_meaning": recipe.mask_meaning,
        "fit": recipe.fit,
        "padding": list(recipe.padding),
        "background": list(recipe.background),
    }


def _source_json(source: PictureSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"sha256": source.sha256, "name": source.name, "file_id": source.file_id}


def _recipe(said: Mapping[str, Any]) -> PictureRecipe:
    use: dict[str, Any] = {**said["use"], "role": PictureRole(said["use"]["role"])}
    red, green, blue = said["background"]
    return PictureRecipe(
        use=PictureUse(**use),
        source=None if said["source"] is None else PictureSource(**said["source"]),
        mask=None if said["mask"] is None else PictureSource(**said["mask"]),
        mask_meaning=said["mask_meaning"],
        fit=said["fit"],
        padding=Padding(*said["padding"]),
        background=(red, green, blue),
    )
