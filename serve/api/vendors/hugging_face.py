"""`POST /hf/text-to-image`: a task of Hugging Face's `InferenceClient`, answered with an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import UnsupportedFeature
from serve.api.images import ABOUT_DRAWN, draw
from serve.api.json_body import read_json_object
from serve.api.openapi.failures import DRAWS, READS_GENERATION
from serve.api.openapi.vendor_failures import HUGGING_FACE_ERROR, vendor_failures
from serve.api.planning import trace_of
from serve.api.schemas import GENERATION_BODY, ImageGenerationRequest, parse_request
from serve.api.services import services_of
from serve.api.vendors.vendor_route import VendorRoute

_ACCEPTED = {f"image/{name}": name for name in ("png", "jpeg", "webp")}


class HuggingFaceRoute(VendorRoute):
    @staticmethod
    def words(status: int, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"errors": [{"message": error["message"]}]}


router = APIRouter(tags=["vendors"], route_class=HuggingFaceRoute)


@router.post(
    "/hf/text-to-image",
    response_class=Response,
    responses={
        200: {
            "headers": ABOUT_DRAWN,
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in _ACCEPTED
            },
        },
        **vendor_failures(HUGGING_FACE_ERROR, *READS_GENERATION, *DRAWS),
    },
    openapi_extra=GENERATION_BODY,
)
async def text_to_image(request: Request) -> Response:
    """Draw one image of `inputs`, with `parameters`: the file itself, in the format that `accept`
    prefers unless `output_format` says another."""
    services = services_of(request)
    arrived = services.now()
    with trace_of(request).root.part("read"):
        fields = _fields(request, await read_json_object(request))
    return await draw(request, services, fields, arrived)


def _fields(request: Request, body: Mapping[str, Any]) -> ImageGenerationRequest:
    """What `body` means here. Raises InvalidRequest, and for several images UnsupportedFeature."""
    fields = parse_request(body)
    if fields.n != 1:
        raise UnsupportedFeature("n: this task answers with one image; leave it out", param="n")
    if fields.stream or fields.partial_images:
        raise UnsupportedFeature("stream: this task does not stream; leave it out", param="stream")
    if fields.response_format not in (None, "file"):
        raise UnsupportedFeature(
            "response_format: this task answers with the image itself; leave it out",
            param="response_format",
        )
    changes: dict[str, Any] = {"response_format": "file"}
    wanted = request.headers.get("accept", "").strip().lower()
    if "output_format" not in fields.model_fields_set and wanted in _ACCEPTED:
        changes["output_format"] = _ACCEPTED[wanted]
    return fields.model_copy(update=changes)
