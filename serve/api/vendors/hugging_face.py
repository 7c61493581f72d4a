"""`POST /hf/text-to-image` and `/hf/image-to-image`: tasks of Hugging Face's `InferenceClient`,
each answered with an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import FileNotStored, UnsupportedFeature
from serve.api.images import ABOUT_DRAWN, draw
from serve.api.json_body import whole_body
from serve.api.openapi.failures import DRAWS, READS_GENERATION
from serve.api.openapi.vendor_failures import HUGGING_FACE_ERROR, vendor_failures
from serve.api.pictures.edits import check_has_picture
from serve.api.pictures.uploads import read_json, upload_of
from serve.api.planning import trace_of
from serve.api.schemas import (
    GENERATION_BODY,
    HUGGING_FACE_EDIT_BODY,
    ImageGenerationRequest,
    parse_request,
)
from serve.api.services import services_of
from serve.api.vendors.vendor_route import VendorRoute

_ACCEPTED = {f"image/{name}": name for name in ("png", "jpeg", "webp")}


class HuggingFaceRoute(VendorRoute):
    @staticmethod
    def words(status: int, error: Mapping[str, Any]) -> dict[str, Any]:
        return {"errors": [{"message": error["message"]}]}


_ENDS = (*READS_GENERATION, *DRAWS)
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": ABOUT_DRAWN,
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in _ACCEPTED
        },
    },
}

router = APIRouter(tags=["vendors"], route_class=HuggingFaceRoute)


@router.post(
    "/hf/text-to-image",
    response_class=Response,
    responses={**_IMAGE, **vendor_failures(HUGGING_FACE_ERROR, *_ENDS, FileNotStored)},
    openapi_extra=GENERATION_BODY,
)
async def text_to_image(request: Request) -> Response:
    """Draw one image of `inputs`, with `parameters`: the file itself, in the format that `accept`
    prefers unless `output_format` says another."""
    services = services_of(request)
    arrived = services.now()
    with trace_of(request).root.part("read"):
        sent = await read_json(request)
        fields = _one_file(request, parse_request(sent.fields, sent.uploads))
    return await draw(request, services, fields, arrived)


@router.post(
    "/hf/image-to-image",
    response_class=Response,
    responses={**_IMAGE, **vendor_failures(HUGGING_FACE_ERROR, *_ENDS, FileNotStored)},
    openapi_extra=HUGGING_FACE_EDIT_BODY,
)
async def image_to_image(request: Request) -> Response:
    """Draw one image from a picture, the body itself or `inputs`, in base64 or as a URL, with
    `parameters`, the prompt among them."""
    services = services_of(request)
    arrived = services.now()
    with trace_of(request).root.part("read"):
        fields = _one_file(request, await _edit(request))
        check_has_picture(fields)
    return await draw(request, services, fields, arrived)


async def _edit(request: Request) -> ImageGenerationRequest:
    """What the body means. Raises InvalidRequest."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("image/") or media_type in ("", "application/octet-stream"):
        uploads: dict[str, bytes] = {}
        picture = upload_of(await whole_body(request), uploads)
        return parse_request({"image": picture}, uploads, is_variation=True)
    sent = await read_json(request)
    body = dict(sent.fields)
    if "inputs" in body:
        body["image"] = body.pop("inputs")
    parameters: object = body.get("parameters")
    has_prompt = "prompt" in body
    if isinstance(parameters, dict):
        own = dict(cast("dict[str, Any]", parameters))
        size: object = own.pop("target_size", None)
        if size is not None:
            own["image_size"] = size
        body["parameters"] = own
        has_prompt = has_prompt or own.get("prompt") is not None
    return parse_request(body, sent.uploads, is_variation=not has_prompt)


def _one_file(request: Request, fields: ImageGenerationRequest) -> ImageGenerationRequest:
    """`fields` as these tasks answer them. Raises UnsupportedFeature for several images and the
    like."""
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
