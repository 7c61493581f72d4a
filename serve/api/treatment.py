"""What became of each field of a body as it was sent: read off the warnings, the one source of it.

What would be refused has no treatment: the error names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from serve.api.schemas import ImageGenerationRequest

_STILL_USED = "used; "
"""A warning that says so of a field does not mean that something else is done."""


class Treatment(BaseModel):
    """Of one field."""

    status: Literal["used", "adjusted"]
    field: str | None = Field(description="The field here that it is; null: there is none.")
    reason: str | None = Field(description="What is done instead, or advice; null for neither.")


def treatment_of(request: ImageGenerationRequest, warnings: Sequence[str]) -> dict[str, Treatment]:
    """The treatment of each place of the body that `request` was read from; a warning begins with
    the name of its field, or with the place of what has none."""
    reasons: dict[str, list[str]] = {}
    for warning in warnings:
        name, _, reason = warning.partition(": ")
        reasons.setdefault(name, []).append(reason)
    return {
        place: _treatment(field, reasons.get(field, ())) for place, field in request.meant.items()
    }


def _treatment(field: str, reasons: Sequence[str]) -> Treatment:
    is_adjusted = any(not reason.startswith(_STILL_USED) for reason in reasons)
    return Treatment(
        status="adjusted" if is_adjusted else "used",
        field=field if field in ImageGenerationRequest.model_fields else None,
        reason="; ".join(reasons) or None,
    )
