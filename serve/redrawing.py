"""From a file that Sluice drew to the request that draws it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import InvalidRequest


def recorded_fields(file: Path) -> Mapping[str, object]:
    """The fields of the generation that draws `file` again, from its metadata: its receipt, or the
    record of a file that has none.

    Raises InvalidRequest for a file that does not have them, OSError for one that cannot be read.
    """
    from deployments.storage.encode import read_parameters
    from deployments.storage.parameters import read_record
    from deployments.storage.receipt_reading import find_receipt

    data = file.read_bytes()
    try:
        if (receipt := find_receipt(data)) is not None:
            return receipt.request
        return read_record(read_parameters(data))
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
