"""From a body in other tools' words to one in ours: pure.

Each name is one of our fields, a row of `foreign_names.py`, or unknown. What means exactly what one
of our fields does becomes that field; what has no effect here is taken out and noted; all else is
refused, and the error names the field to use. Types and limits are not its business.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from pipelines.errors import InvalidRequest, UnsupportedFeature
from serve.api.complaints import shown
from serve.api.dialects.foreign_names import (
    CONTAINERS,
    CONTROL_WORDS,
    FOREIGN_FIELDS,
    FOREIGN_VALUES,
    IMAGE_SIZES,
    Instead,
    NotOffered,
    NotUsed,
    Same,
)
from serve.api.problems import Problems

_NAME_CHARS = 80
_MAX_DEPTH = 2
"""Of containers in each other."""
_MAX_FIELDS = 256
"""More than all clients' together: what has more is no request, and to read it would cost."""

_SIDES = ("width", "height")


class Given(NamedTuple):
    """A value, and where the body has it, such as `extra_body.steps`."""

    value: Any
    path: str


@dataclass(slots=True)
class Translation:
    """Our fields, each with its value and place, and a note for each one that was not used.

    `meant` has every place of the body with a value, and the field of ours that it is: its own
    place where it is none. `problems` are the mistakes of single fields, not told yet.
    """

    fields: dict[str, Given] = field(default_factory=dict[str, Given])
    notes: list[str] = field(default_factory=list[str])
    meant: dict[str, str] = field(default_factory=dict[str, str])
    problems: Problems = field(default_factory=Problems)

    def put(self, name: str, given: Given) -> None:
        """Raises InvalidRequest where `name` was given before, with another value."""
        before = self.fields.get(name)
        if before is None:
            self.fields[name] = given
        elif not _equal(before.value, given.value):
            raise InvalidRequest(
                f"{given.path}: {shown(given.value)} contradicts {before.path}:"
                f" {shown(before.value)}; leave one of them out",
                param=given.path[:_NAME_CHARS],
            )


def translate(body: Mapping[str, Any], own: Collection[str]) -> Translation:
    """`body` in the names `own`; null counts as absent.

    Its `problems` name each field that is unknown (with the nearest known), contradicts another,
    or means something else here, and what is not offered. Raises InvalidRequest for a body whose
    fields cannot be found.
    """
    found = Translation()
    sides: dict[str, Given] = {}
    control: dict[str, Given] = {}

    def take(name: str, given: Given) -> None:
        if name in own:
            found.put(name, given)
        elif name in _SIDES:
            sides[name] = _once(sides, name, given)
        elif name in CONTROL_WORDS:
            control[CONTROL_WORDS[name]] = _once(control, CONTROL_WORDS[name], given)
        elif name == "image_size":
            found.put("size", Given(_image_size(given), given.path))
        else:
            _take_foreign(found, name, given, own)
        found.meant[given.path] = _meaning(name, given.path, own)

    # Our own names first, so that a contradiction is told of the foreign one.
    for name, given in sorted(_flat(body), key=lambda item: item[0] not in own):
        found.problems.check(lambda name=name, given=given: take(name, given))
    found.problems.check(lambda: _take_sides(found, sides))
    found.problems.check(lambda: _take_control(found, control))
    _take_values(found)
    found.problems.check(lambda: _take_custom_ratio(found))
    found.problems.check(lambda: _take_seeds(found))
    return found


def _flat(body: Mapping[str, Any]) -> list[tuple[str, Given]]:
    """Each entry with its place, those of containers among them. Raises InvalidRequest."""
    entries: list[tuple[str, Given]] = []
    waiting: list[tuple[int, str, Mapping[str, Any]]] = [(0, "", body)]
    read = 0
    while waiting:
        depth, prefix, mapping = waiting.pop()
        read += len(mapping)
        if read > _MAX_FIELDS:
            raise InvalidRequest(f"the body has more than {_MAX_FIELDS} fields; send fewer")
        for name, value in mapping.items():
            path = prefix + name
            if value is None:
                continue
            if name not in CONTAINERS:
                entries.append((name, Given(value, path)))
            elif isinstance(value, dict) and depth < _MAX_DEPTH:
                waiting.append((depth + 1, f"{path}.", cast("dict[str, Any]", value)))
            else:
                problem = (
                    "is nested too deeply"
                    if isinstance(value, dict)
                    else f"must be an object with further fields, got {shown(value)}"
                )
                raise InvalidRequest(f"{path}: {problem}", param=path[:_NAME_CHARS])
    return entries


def _take_foreign(found: Translation, name: str, given: Given, own: Collection[str]) -> None:
    value, path = given
    param = path[:_NAME_CHARS]
    match FOREIGN_FIELDS.get(name):
        case None:
            # What is nearest takes a millisecond to find.
            known = () if found.problems.are_enough else own
            raise InvalidRequest(_unknown(name, param, known), param=param)
        case Same(field):
            found.put(field, given)
        case Instead(hint):
            raise InvalidRequest(f"{path}: {hint}", param=param)
        case NotOffered(why, unless):
            if not any(_equal(value, each) for each in unless):
                raise UnsupportedFeature(f"{path}: {why}", param=param)
        case NotUsed(why, unless):
            if not any(_equal(value, each) for each in unless):
                found.notes.append(f"{path}: not used; {why}")


def _meaning(name: str, path: str, own: Collection[str]) -> str:
    """The field of ours that a name is, or the place where it stands."""
    if name in own:
        return name
    if name in _SIDES or name == "image_size":
        return "size"
    if name in CONTROL_WORDS:
        return "control"
    row = FOREIGN_FIELDS[name]
    return row.field if isinstance(row, Same) else path


def _once(sides: Mapping[str, Given], name: str, given: Given) -> Given:
    both = Translation(dict(sides))
    both.put(name, given)
    return both.fields[name]


def _take_sides(found: Translation, sides: Mapping[str, Given]) -> None:
    """`width` and `height` as a size, which may also have been given as one."""
    if not sides:
        return
    for name, given in sides.items():
        if type(given.value) is not int:
            raise InvalidRequest(
                f"{given.path}: must be an integer, in pixels, got {shown(given.value)}",
                param=given.path[:_NAME_CHARS],
            )
        other = _SIDES[1 - _SIDES.index(name)]
        if other not in sides:
            raise InvalidRequest(
                f"{given.path}: needs {other} beside it; or write `size` as 'WIDTHxHEIGHT'",
                param=given.path[:_NAME_CHARS],
            )
    size = "x".join(str(sides[name].value)[:20] for name in _SIDES)
    before = found.fields.get("size")
    if before is not None and before.value != "auto" and _plain_size(before.value) != size:
        raise InvalidRequest(
            f"{before.path}: {shown(before.value)} contradicts width and height, which are {size};"
            " leave one of them out",
            param=before.path[:_NAME_CHARS],
        )
    found.fields["size"] = Given(size, " and ".join(sides[name].path for name in _SIDES))


def _take_control(found: Translation, control: Mapping[str, Given]) -> None:
    """What is said of one control map, as an entry of `control`."""
    if not control:
        return
    first = next(iter(control.values()))
    param = first.path[:_NAME_CHARS]
    if "image" not in control:
        raise InvalidRequest(f"{first.path}: needs control_image beside it", param=param)
    if "control" in found.fields:
        raise InvalidRequest(
            f"{first.path}: contradicts control; leave one of them out", param=param
        )
    entry = {name: given.value for name, given in control.items()}
    found.fields["control"] = Given([entry], control["image"].path)


def _plain_size(size: object) -> object:
    return size.strip().lower().replace("×", "x") if isinstance(size, str) else size


def _image_size(given: Given) -> Any:
    """fal's: the name of a size, or an object with width and height."""
    match given.value:
        case str(name) if name in IMAGE_SIZES:
            return IMAGE_SIZES[name]
        case {"width": int(width), "height": int(height), **rest} if not rest:
            return f"{str(width)[:20]}x{str(height)[:20]}"
        case str(text) if text[:1].isdigit() or text == "auto":
            return text
        case _:
            raise InvalidRequest(
                f"{given.path}: must be one of {', '.join(IMAGE_SIZES)} or an object with width and"
                f" height, got {shown(given.value)}; or write `size` as 'WIDTHxHEIGHT'",
                param=given.path[:_NAME_CHARS],
            )


def _take_values(found: Translation) -> None:
    for name, values in FOREIGN_VALUES.items():
        given = found.fields.get(name)
        if given is None or not isinstance(given.value, str):
            continue
        if (ours := values.get(given.value.lower())) is None:
            continue
        if ours.note is not None:
            found.notes.append(f"{name}: {ours.note}")
        if ours.value is None:
            del found.fields[name]
        else:
            found.fields[name] = given._replace(value=ours.value)


def _take_custom_ratio(found: Translation) -> None:
    """Replicate's word for a size that is given as such."""
    given = found.fields.get("aspect_ratio")
    if given is None or given.value != "custom":
        return
    if "size" not in found.fields:
        raise InvalidRequest(
            f"{given.path}: 'custom' needs width and height", param=given.path[:_NAME_CHARS]
        )
    del found.fields["aspect_ratio"]


def _take_seeds(found: Translation) -> None:
    """A list of the seeds that the images would get anyway is its first."""
    given = found.fields.get("seed")
    value: object = None if given is None else given.value
    if given is None or not isinstance(value, list):
        return
    seeds = cast("list[Any]", value)
    count = found.fields["n"].value if "n" in found.fields else 1
    whole = all(type(seed) is int for seed in seeds) and type(count) is int
    if (
        not seeds
        or not whole
        or len(seeds) != count
        or seeds != list(range(seeds[0], seeds[0] + count))
    ):
        raise InvalidRequest(
            f"{given.path}: must be one integer, as image i is drawn with seed + i; a list may hold"
            " those of the `n` images, one after the other",
            param=given.path[:_NAME_CHARS],
        )
    found.fields["seed"] = given._replace(value=seeds[0])


def _unknown(name: str, param: str, own: Collection[str]) -> str:
    """Names the field that is nearest, whether it is written in our words or in others'; none
    without `own`."""
    if not own:
        return f"{param}: unknown field"
    known = (*_SIDES, *CONTROL_WORDS, *FOREIGN_FIELDS, *own)
    meant = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name[:_NAME_CHARS]), meant, n=1, cutoff=0.7)
    if not near:
        return f"{param}: unknown field; GET /openapi.json lists the fields"
    hit = meant[near[0]]
    match FOREIGN_FIELDS.get(hit):
        case Same(field):
            return f"{param}: unknown field; did you mean `{field}`?"
        case None:
            return f"{param}: unknown field; did you mean `{hit}`?"
        case Instead(why) | NotOffered(why, _) | NotUsed(why, _):
            return f"{param}: unknown field; if you mean `{hit}`: {why}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _equal(one: object, other: object) -> bool:
    """Whether JSON has both the same: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
