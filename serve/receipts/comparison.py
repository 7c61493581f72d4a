"""A receipt against this server: whether it draws the same bytes, or what differs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from deployments.graph.running_stages import Running
from deployments.storage.receipt import Receipt
from pipelines.catalog import ModelSpec
from pipelines.provenance import Provenance, StageProvenance

_IN_EVERY_IMAGE = ("text_encoder", "transformer", "vae")
"""Parts that every image comes of; others, such as what encodes pictures, only some."""

_COMPARED = ("weights", "dtype", "device", "attention", "compile", "parallel")


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
            found += _of_part(part, file, _only(part, running.stages))
    return found


def _of_part(part: str, file: Provenance, here: Provenance) -> Iterator[Difference]:
    if not file or not here:
        values = (_shown(stage.weights for stage in stages) for stages in (file, here))
        yield Difference("weights", part, *values)
        return
    for what in _COMPARED:
        yield from _differing(what, part, *(_values(what, stages) for stages in (file, here)))
    for library in sorted({name for stage in (*file, *here) for name, _ in stage.versions}):
        versions = (
            {dict(stage.versions).get(library) for stage in stages} for stages in (file, here)
        )
        yield from _differing(f"version of {library}", part, *versions)


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
