"""From a file that Sluice drew to the request that draws it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import InvalidRequest


def recorded_fields(file: Path) -> Mapping[str, object]:
    """The fields of the generation that draws `file` again, from its metadata.

    Raises InvalidRequest for a file that does not have them, OSError for one that cannot be read.
    """
    from deployments.storage.encode import read_parameters
    from deployments.storage.parameters import read_record

    try:
        return read_record(read_parameters(file.read_bytes()))
    except InvalidRequest as error:
        raise InvalidRequest(f"{file}: {error.message}") from error


def merged(recorded: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """The recorded fields, but for those that are given, which are not None.

    Other steps than those recorded are not cut or skipped as those were.
    """
    fields = {**recorded, **{name: value for name, value in given.items() if value is not None}}
    if given.get("num_inference_steps") is not None or given.get("min_steps") is not None:
        fields.pop("step_cuts", None)
        fields.pop("skip_steps", None)
    return fields
