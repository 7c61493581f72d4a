"""Which task a request is: by what comes, and by what is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines import catalog
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.tasks import Task
from serve.api.pictures.choosing_task import WhatCame, choose_task, kind_of
from tests.serve.fakes import SPEC

ALL = replace(SPEC, tasks=tuple(map(str, Task)))
BASE = replace(SPEC, name="base", tasks=("text-to-image", "image-to-image", "inpaint"))
KONTEXT = replace(SPEC, name="kontext", tasks=("text-to-image", "edit", "edit-inpaint"))
FILL = replace(SPEC, name="fill", tasks=("fill",))


def chosen(*served: Any, kinds: tuple[str, ...] = (), **came: Any) -> tuple[str, str]:
    found = choose_task(WhatCame(**came), served or (ALL,), control_kinds=kinds)
    return str(found.task), found.spec.name


@pytest.mark.parametrize(
    ("came", "base", "kontext", "everything"),
    [
        ({}, "text-to-image", "text-to-image", "text-to-image"),
        ({"images": 1}, "image-to-image", "edit", "edit"),
        ({"images": 1, "has_strength": True}, "image-to-image", None, "image-to-image"),
        ({"images": 1, "prefix": "edit"}, None, "edit", "edit"),
        ({"images": 3}, None, "edit", "edit"),
        ({"references": 2}, None, "edit", "edit"),
        ({"images": 1, "references": 1}, None, "edit", "edit"),
        ({"images": 1, "has_mask": True}, "inpaint", "edit-inpaint", "fill"),
        ({"images": 1, "has_outpaint": True}, "inpaint", "edit-inpaint", "fill"),
        (
            {"images": 1, "has_mask": True, "prefix": "edit"},
            "inpaint",
            "edit-inpaint",
            "edit-inpaint",
        ),
        (
            {"images": 1, "has_mask": True, "references": 1},
            None,
            "edit-inpaint",
            "edit-inpaint",
        ),
        ({"images": 1, "is_variation": True}, "image-to-image", None, "variation"),
        ({"maps": ("canny",)}, None, None, "control"),
    ],
)
def test_by_what_comes(
    came: dict[str, Any], base: str | None, kontext: str | None, everything: str
):
    for spec, task in ((BASE, base), (KONTEXT, kontext), (ALL, everything)):
        if task is None:
            with pytest.raises(UnsupportedFeature):
                chosen(spec, **came)
        else:
            assert chosen(spec, **came) == (task, spec.name)


def test_of_several_models_the_one_that_can():
    served = (BASE, KONTEXT, FILL)
    assert chosen(*served) == ("text-to-image", "base")
    assert chosen(*served, images=1) == ("edit", "kontext")
    assert chosen(*served, images=1, has_strength=True) == ("image-to-image", "base")
    assert chosen(*served, images=1, has_mask=True) == ("fill", "fill")
    assert chosen(*served, images=1, has_mask=True, prefix="edit") == ("edit-inpaint", "kontext")


def test_maps_for_control_nets():
    maps = {"maps": ("canny",), "kinds": ("canny",)}
    assert chosen(BASE, **maps) == ("text-to-image", "base")
    assert chosen(BASE, images=1, **maps) == ("image-to-image", "base")
    assert chosen(BASE, images=1, has_mask=True, **maps) == ("inpaint", "base")
    with pytest.raises(UnsupportedFeature, match="control: no ControlNet is served here"):
        chosen(BASE, maps=("canny",))
    with pytest.raises(UnsupportedFeature, match="control: kontext does not do that"):
        chosen(KONTEXT, images=2, **maps)


@pytest.mark.parametrize(
    ("came", "param", "said"),
    [
        ({"has_mask": True}, "mask", "needs an image beside it"),
        ({"has_outpaint": True}, "outpaint", "needs an image beside it"),
        ({"has_strength": True}, "strength", "needs an image beside it"),
        ({"has_mask": True, "references": 1}, "mask", "needs an image beside it"),
        ({"is_variation": True}, "image", "required"),
        ({"is_variation": True, "images": 1, "has_mask": True}, "mask", "an image alone"),
        ({"is_variation": True, "images": 1, "maps": ("",)}, "control", "an image alone"),
        ({"is_variation": True, "images": 2}, "image", "2 pictures, .* at most 1"),
        ({"images": 5}, "image", "5 pictures, .* at most 4"),
        ({"references": 5}, "reference_image", "5 pictures, .* at most 4"),
        ({"images": 2, "has_mask": True}, "image", "2 pictures, .* at most 1"),
        ({"images": 1, "references": 2, "has_mask": True}, "reference_image", "at most 1"),
        ({"maps": ("a", "b")}, "control", "2 pictures, .* at most 1"),
    ],
)
def test_what_does_not_fit_names_its_field(came: dict[str, Any], param: str, said: str):
    with pytest.raises(InvalidRequest, match=said) as caught:
        chosen(ALL, **came)
    assert caught.value.param == param


def test_what_no_model_here_does_names_models_to_add(monkeypatch: pytest.MonkeyPatch):
    known = {spec.name: spec for spec in (BASE, KONTEXT, FILL)}
    monkeypatch.setattr(catalog, "models", lambda: known)
    with pytest.raises(UnsupportedFeature) as caught:
        chosen(BASE, images=2)
    assert caught.value.param == "image"
    assert caught.value.message == (
        "image: base does not do that: a model is needed that edits a picture by instruction;"
        " its operator can add kontext"
    )
    only_text = replace(SPEC, name="words", tasks=("text-to-image",))
    with pytest.raises(UnsupportedFeature, match="can add base or kontext or fill") as caught:
        chosen(only_text, images=1, has_mask=True)
    assert caught.value.param == "mask"


def test_the_kind_of_a_map():
    assert kind_of("canny", ("canny", "depth"), name="control") == "canny"
    assert kind_of("", ("canny",), name="control") == "canny"
    with pytest.raises(InvalidRequest, match=r"control\[1\]: 'x' is no kind .* canny, depth"):
        kind_of("x", ("depth", "canny"), name="control[1]")
    with pytest.raises(InvalidRequest, match="names no `kind`; write one of canny, depth"):
        kind_of("", ("depth", "canny"), name="control")
