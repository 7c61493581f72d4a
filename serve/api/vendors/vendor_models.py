"""What vendors call the models of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.errors import InvalidRequest, ModelNotFound
from serve.api.services import Services

VENDOR_NAMES: Mapping[str, tuple[str, ...]] = {
    "flux.1-dev": (
        "fal-ai/flux/dev",
        "fal-ai/flux/dev/image-to-image",
        "black-forest-labs/flux-dev",
    ),
    "flux.1-schnell": ("fal-ai/flux/schnell", "black-forest-labs/flux-schnell"),
}
"""Names in the catalogue, and what fal and Replicate call the same weights."""


def served_model(services: Services, vendor_name: str) -> str:
    """The name here of the model that a client calls `vendor_name`: as its vendor does, or by a
    name of this server with or without an owner before it. Raises ModelNotFound for another."""
    _, _, without_owner = vendor_name.partition("/")
    served = services.served_names
    if vendor_name in VENDOR_NAMES.get(services.spec.name, ()):
        return served[0]
    for name in (vendor_name, without_owner):
        if name in served:
            return name
    raise ModelNotFound(
        f"model: {vendor_name[:80]!r} is not served here; served: {served[0]}",
        model=vendor_name[:80],
    )


def with_model(fields: Mapping[str, Any], vendor_name: str, served: str) -> dict[str, Any]:
    """`fields` of a request to `vendor_name`, with the name here of what that serves. Raises
    InvalidRequest if they name another model."""
    if fields.get("model") not in (None, vendor_name, served):
        raise InvalidRequest(
            f"model: contradicts the URL, which names {vendor_name[:80]!r}; leave it out",
            param="model",
        )
    return {**fields, "model": served}
