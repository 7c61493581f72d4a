"""ImageStream: one generation as OpenAI's events: partial images on the way, then each image.

`event` equals the JSON's `type`, as OpenAI's clients expect, which take every type that they do not
know for a partial image: so there is no other, and what shows that the stream lives is a comment.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Self

from starlette.requests import Request

from pipelines.contracts import Usage
from serve.api.event_stream import ServerSentEvent
from serve.api.images_response import images_response, usage_report
from serve.api.planning import log_entry, pictures_of, plan_of, tenant_in
from serve.api.schemas import ImageGenerationRequest, ImagesResponse
from serve.api.services import Services
from serve.generation.partial_images import PartialImage, PartialImages
from serve.generation.plan import Plan

PARTIAL_IMAGE, COMPLETED = "partial_image", "completed"
GENERATION, EDIT = "image_generation", "image_edit"
"""What the names of events begin with, by the route."""


class ImageStream:
    """The events of the generation that `fields` asks for, which begins at once; their names begin
    with `kind`.

    They raise whatever the drawing raises. Must be closed.
    """

    def __init__(
        self,
        request: Request,
        services: Services,
        fields: ImageGenerationRequest,
        arrived: float,
        *,
        kind: str = GENERATION,
    ) -> None:
        self._kind = kind
        self._request = request
        self._services = services
        self._fields = fields
        self._arrived = arrived
        self._admitted = asyncio.Event()
        self._partials: asyncio.Queue[tuple[PartialImage, Plan] | None] = asyncio.Queue()
        self._drawing = asyncio.create_task(self._draw())
        self._drawing.add_done_callback(lambda _: self._partials.put_nowait(None))
        self._events = self._all_events()

    async def begin(self) -> None:
        """Until the generation has a place. Raises whatever refuses it; closes when cancelled."""
        admitted = asyncio.create_task(self._admitted.wait())
        try:
            await asyncio.wait((self._drawing, admitted), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            admitted.cancel()
        if self._drawing.done():
            self._drawing.result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """What is not drawn yet is cancelled, whether or not an event was asked for."""
        await self._events.aclose()
        await self._stop()

    async def _all_events(self) -> AsyncGenerator[ServerSentEvent]:
        while (item := await self._partials.get()) is not None:
            yield self._partial(*item)
        response, usage = await self._drawing
        for index in range(len(response.data)):
            yield self._completed(response, usage, index)

    async def _draw(self) -> tuple[ImagesResponse, Usage]:
        request, services, fields = self._request, self._services, self._fields
        with services.generations.logged(log_entry(request, fields, self._arrived)) as entry:
            entry.admitting.callback(self._admitted.set)
            entry.tenant = tenant_in(request, services, fields)
            pictures = await pictures_of(request, services, fields, entry.tenant)
            plan = plan_of(services, fields, pictures)
            terms = plan.requested.terms(tenant=entry.tenant, arrived=self._arrived)

            def chosen(partial: PartialImage) -> None:
                self._partials.put_nowait((partial, plan))

            listener = PartialImages(plan.params.num_images, fields.partial_images, chosen)
            answer = await services.generations.generate(plan, terms, entry, listener)
        result, punctuality = answer.result, entry.punctuality
        return images_response(request, services, fields, plan, result, punctuality), result.usage

    async def _stop(self) -> None:
        self._drawing.cancel()
        # What it raised is nobody's any more.
        await asyncio.gather(self._drawing, return_exceptions=True)

    def _partial(self, partial: PartialImage, plan: Plan) -> ServerSentEvent:
        preview = partial.preview
        return _event(
            f"{self._kind}.{PARTIAL_IMAGE}",
            b64_json=base64.b64encode(preview.data).decode(),
            partial_image_index=partial.index,
            image_index=preview.image,
            created_at=int(time.time()),
            size=f"{plan.params.width}x{plan.params.height}",
            quality=_quality(plan.quality),
            background="opaque",
            # What a client names the file by, which is not of the format that was asked for.
            output_format=preview.media_type.removeprefix("image/"),
            width=preview.width,
            height=preview.height,
            step=preview.step,
            num_steps=preview.num_steps,
        )

    def _completed(self, response: ImagesResponse, usage: Usage, index: int) -> ServerSentEvent:
        image = response.data[index]
        shared = response.model_dump(exclude_none=True, exclude={"created", "data", "usage"})
        share = _share(usage, index, len(response.data))
        return _event(
            f"{self._kind}.{COMPLETED}",
            **image.model_dump(exclude_none=True),
            image_index=index,
            created_at=response.created,
            **{**shared, "quality": _quality(response.quality)},
            usage=usage_report(share).model_dump(),
            **_identifier(self._fields),
        )


def _event(kind: str, **data: Any) -> ServerSentEvent:
    return ServerSentEvent(kind, {"type": kind, **data})


def _quality(quality: str | None) -> str:
    """OpenAI's events always have one; where the request has named its steps, none was chosen."""
    return quality or "auto"


def _identifier(fields: ImageGenerationRequest) -> dict[str, str]:
    """The effective `safety_identifier`, in OpenAI's words, if there is one."""
    identifier = fields.safety_identifier or fields.user
    return {"safety_identifier": identifier} if identifier else {}


def _share(usage: Usage, index: int, count: int) -> Usage:
    """What of the request's usage the event of an image says, so that all together say it once:
    the input with the first, the output of each image with it, as all are of one size."""
    output, rest = divmod(usage.output_tokens, count)
    return replace(
        usage,
        input_tokens=usage.input_tokens if index == 0 else 0,
        output_tokens=output + (rest if index == 0 else 0),
        device_seconds=usage.device_seconds / count,
        megapixel_steps=usage.megapixel_steps / count,
    )
