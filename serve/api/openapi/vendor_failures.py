"""What the routes for other services' clients answer instead: our errors, with the words that their
clients look for beside them. What the middleware refuses has ours alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.api.openapi.failures import Cause, Responses, Schema, failures

HUGGING_FACE_ERROR = "HuggingFaceError"
FAL_ERROR = "FalError"
REPLICATE_ERROR = "ReplicateError"

VENDOR_ERRORS: Mapping[str, Mapping[str, Schema]] = {
    HUGGING_FACE_ERROR: {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"message": {"type": "string"}},
                "required": ["message"],
                "additionalProperties": False,
            },
        }
    },
    FAL_ERROR: {"detail": {"type": "string"}, "error_type": {"type": "string"}},
    REPLICATE_ERROR: {
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "status": {"type": "integer"},
    },
}
"""Schemas in the document, and the words in each."""


def vendor_failures(schema: str, *causes: Cause) -> Responses:
    """As `failures`, with errors as the component `schema` has them."""
    found = failures(*causes)
    for response in found.values():
        described: list[Any] = response["content"]["application/json"]["schema"]["allOf"]
        described[0] = {"$ref": f"#/components/schemas/{schema}"}
    return found
