"""`POST /v1/receipts/read`: from a file that was drawn to the request that draws it again.

The file is read in a worker thread, and of its bytes only what frames it; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from deployments.storage.receipt_reading import read_receipt
from pipelines.errors import BodyTimeout, InvalidRequest, Overloaded
from serve.api.openapi.failures import WAITS, failures
from serve.api.planning import plan_of
from serve.api.schemas import ImageGenerationRequest, parse_request
from serve.api.services import Services, services_of
from serve.api.uploads import FIELD, read_file
from serve.receipts.comparison import Difference, differences

PATH = "/v1/receipts/read"

_REQUEST_FIELDS = frozenset(
    {
        "prompt",
        "negative_prompt",
        "prompt_weighting",
        "true_cfg_scale",
        "model",
        "n",
        "size",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "skip_steps",
        "step_cuts",
        "output_format",
        "output_compression",
    }
)
"""Those of a receipt: whoever sends it on asks for no more than a drawing."""

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{f"image/{kind}": {"schema": _BINARY} for kind in ("png", "jpeg", "webp")},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: _BINARY},
                    "required": [FIELD],
                }
            },
        },
    }
}

router = APIRouter(tags=["images"])


class ReceiptDifference(BaseModel):
    """What may change bits; `null` where it is not known, several values where replicas differ."""

    what: str = Field(
        description="`model`, `weights`, `version of torch`, `dtype`, `device`, `attention`,"
        " `compile`, `parallel`, `tiling`, `prompt tokens`, `replicas`, or `request`: it is refused"
        " here."
    )
    part: str | None = Field(description="The part of the model, such as `transformer`.")
    file: str | None
    here: str | None


class ReceiptResponse(BaseModel):
    """What a file's receipt says, against this server."""

    request: dict[str, Any] = Field(
        description="A body of `/v1/images/generations`, with the file's own seed."
    )
    model: str
    weights: str | None = Field(description="SHA-256 over the weights of all parts.")
    versions: dict[str, str] = Field(description="Of the libraries that the denoiser ran with.")
    steps: int = Field(description="Forwards that were really run.")
    reproducible: bool = Field(
        description="Whether the request draws the same bytes, but for a signature, on any of the"
        " replicas that run here now: false while an update mixes versions, or a stage sleeps."
    )
    differences: list[ReceiptDifference]


@router.post(
    PATH,
    responses=failures(InvalidRequest, BodyTimeout, 415, Overloaded, *WAITS),
    openapi_extra=_BODY,
)
async def read_receipt_of_file(request: Request) -> ReceiptResponse:
    """Read the receipt in a PNG, JPEG or WebP: a request that draws it again, or what differs."""
    services = services_of(request)
    with services.file_reads.one_of(services.settings.limits.max_file_reads, "files are read"):
        data = await read_file(request)
        receipt = await run_in_threadpool(read_receipt, data)
        del data
    fields = _fields_of(receipt.request)
    found = differences(
        receipt,
        await services.running(),
        spec=services.spec,
        served_names=services.served_names,
    )
    found += _refusals(services, fields)
    return ReceiptResponse(
        request=fields.model_dump(exclude_unset=True),
        model=receipt.model,
        weights=receipt.weights,
        versions=dict(receipt.versions),
        steps=receipt.steps,
        reproducible=not found,
        differences=[ReceiptDifference(**each._asdict()) for each in found],
    )


def _fields_of(content: Mapping[str, Any]) -> ImageGenerationRequest:
    """The request, if it is one of a receipt's. Raises InvalidRequest."""
    if unknown := content.keys() - _REQUEST_FIELDS:
        raise _damaged(f"its request has a field {min(unknown)[:80]!r}")
    if not content.keys() >= {"prompt", "seed"} or content.get("n", 1) != 1:
        raise _damaged("its request is not one for this image, with its prompt and seed")
    try:
        return parse_request(dict(content))
    except InvalidRequest as error:
        raise _damaged(f"its request is none: {error.message}") from error


def _refusals(services: Services, fields: ImageGenerationRequest) -> list[Difference]:
    """Why this server would refuse the request, the model's name aside."""
    try:
        plan_of(services, fields.model_copy(update={"model": None}))
    except InvalidRequest as error:
        return [Difference("request", None, None, error.message)]
    return []


def _damaged(why: str) -> InvalidRequest:
    return InvalidRequest(f"the file's receipt is damaged: {why}")
