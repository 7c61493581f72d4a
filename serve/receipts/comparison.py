"""A receipt against this server: whether it draws the same bytes, or what differs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from deployments.graph.running_stages import Running
from deployments.storage.receipt import Receipt
from pipelines.catalog import ModelSpec
from pipelines.provenance import Provenance, StageProvenance
from pipelines.tiling import Tiling

_IN_EVERY_IMAGE = ("text_encoder", "transformer", "vae")
"""Parts that every image comes of; others, such as what encodes pictures, only some."""

_COMPARED = ("weights", "dtype", "device", "attention", "compile", "parallel")


class _Size(NamedTuple):
    """In pixels."""

    height: int
    width: int


class Difference(NamedTuple):
    """One thing that may change bits: as the file has it and as it is here, None where that is not
    known. Several values in one text are of several replicas."""

    what: str
    part: str | None
    file: str | None
    here: str | None


def differences(
    receipt: Receipt, running: Running, *, spec: ModelSpec, served_names: Sequence[str]
) -> list[Difference]:
    """Those between the file and all that runs here; none where it would be drawn again, bit for
    bit, by whichever replicas. So a pool that a rollout mixes differs from every file."""
    found: list[Difference] = []
    if receipt.model not in served_names:
        found.append(Difference("model", None, receipt.model, served_names[0]))
    if receipt.prompt_tokens != spec.max_sequence_length:
        tokens = str(receipt.prompt_tokens), str(spec.max_sequence_length)
        found.append(Difference("prompt tokens", None, *tokens))
    if running.silent:
        here = f"{running.silent} of them did not say what they are"
        found.append(Difference("replicas", None, None, here))
    parts = dict.fromkeys(stage.part for stage in (*receipt.stages, *running.stages))
    if not receipt.stages and not parts:
        found.append(Difference("weights", None, None, None))
    for part in parts:
        file = _only(part, receipt.stages)
        if file or part in _IN_EVERY_IMAGE:
            sizes = _sizes(receipt) if part == "vae" else _sizes_of_pictures(receipt)
            found += _of_part(part, file, _only(part, running.stages), sizes)
    return found


def _of_part(
    part: str, file: Provenance, here: Provenance, sizes: Sequence[_Size]
) -> Iterator[Difference]:
    if not file or not here:
        values = (_shown(stage.weights for stage in stages) for stages in (file, here))
        yield Difference("weights", part, *values)
        return
    for what in _COMPARED:
        yield from _differing(what, part, *(_values(what, stages) for stages in (file, here)))
    yield from _of_tiles(part, file, here, sizes)
    for library in sorted({name for stage in (*file, *here) for name, _ in stage.versions}):
        versions = (
            {dict(stage.versions).get(library) for stage in stages} for stages in (file, here)
        )
        yield from _differing(f"version of {library}", part, *versions)


def _of_tiles(
    part: str, file: Provenance, here: Provenance, sizes: Sequence[_Size]
) -> Iterator[Difference]:
    """One where a picture of `sizes` would be tiled that was not, or the other way round, or in
    other tiles. A file has a rule only if it did cover one; a replica has its own always."""
    rule = next((stage.tiling for stage in file if stage.tiling is not None), None)
    then = [_tiles(rule, size) for size in sizes]
    if any([_tiles(stage.tiling, size) for size in sizes] != then for stage in here):
        yield Difference("tiling", part, _rules([rule]), _rules(stage.tiling for stage in here))


def _tiles(rule: Tiling | None, size: _Size) -> int:
    """Side of the tiles of a picture of this size; 0 where it is whole."""
    return rule.size if rule is not None and rule.covers(size.height, size.width) else 0


def _rules(rules: Iterable[Tiling | None]) -> str:
    return ", ".join(sorted({"none" if rule is None else str(rule) for rule in rules}))


def _sizes(receipt: Receipt) -> list[_Size]:
    """Of the image."""
    return _read_sizes([receipt.request])


def _sizes_of_pictures(receipt: Receipt) -> list[_Size]:
    """Of those that it was drawn from."""
    return _read_sizes(receipt.pictures)


def _read_sizes(told: Iterable[Mapping[str, Any]]) -> list[_Size]:
    """Of what says `size` as WIDTHxHEIGHT; whoever wrote a receipt may have written anything."""
    found = (re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", str(each.get("size"))) for each in told)
    return [_Size(height=int(each[2]), width=int(each[1])) for each in found if each]


def _differing(
    what: str, part: str, file: set[str | None], here: set[str | None]
) -> Iterator[Difference]:
    """One unless both have one value, and the same."""
    if file != here or len(file) != 1 or None in file:
        yield Difference(what, part, _shown(file), _shown(here))


def _only(part: str, stages: Provenance) -> Provenance:
    return tuple(stage for stage in stages if stage.part == part)


def _values(what: str, stages: Iterable[StageProvenance]) -> set[str | None]:
    found = (getattr(stage, what) for stage in stages)
    return {str(value).lower() if isinstance(value, bool) else value for value in found}


def _shown(values: Iterable[str | None]) -> str | None:
    known = sorted({value for value in values if value is not None})
    return ", ".join(known) if known else None
