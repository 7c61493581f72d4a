"""`/v1/webhooks/deliveries`: the messages that jobs are over, and those that nobody took."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import DeliveryNotFound, StoreUnavailable
from serve.api.jobs.owner import User, owner_in
from serve.api.openapi.failures import TAKES_PARAMETERS, WAITS, failures
from serve.api.services import services_of
from serve.error_responses import ApiResponse
from serve.jobs.store.delivery_store import Delivery, DeliveryStatus

MAX_DELIVERIES = 100

router = APIRouter(tags=["webhooks"])


class DeliveryView(BaseModel):
    """A message to `url` that a job is over. Times are Unix seconds."""

    id: str = Field(description="`webhook-id`, the same in every attempt.")
    object: Literal["webhook.delivery"] = "webhook.delivery"
    job_id: str
    url: str
    status: DeliveryStatus = Field(
        description="`waiting` for its next attempt, `delivered`, or `dead`: given up."
    )
    created_at: float
    next_at: float | None = Field(description="Of the next attempt, while it waits.")
    attempts: int
    last_error: str | None = Field(description="Why the last attempt failed.")
    last_status: int | None = Field(description="What the receiver answered to it, if it did.")

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        is_waiting = delivery.status is DeliveryStatus.WAITING
        return cls(
            id=delivery.id,
            job_id=delivery.job_id,
            url=delivery.url,
            status=delivery.status,
            created_at=delivery.created_at,
            next_at=delivery.next_at if is_waiting else None,
            attempts=delivery.attempts,
            last_error=delivery.last_error,
            last_status=delivery.last_status,
        )


class DeliveryList(BaseModel):
    """Some deliveries, the newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]


@router.get(
    "/v1/webhooks/deliveries",
    response_model=DeliveryList,
    responses=failures(*WAITS, *TAKES_PARAMETERS, StoreUnavailable),
)
async def list_deliveries(
    request: Request,
    status: Annotated[
        DeliveryStatus | None, Query(description="`dead` lists the dead letters.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_DELIVERIES)] = MAX_DELIVERIES,
    user: User = None,
) -> Response:
    """The owner's messages, the newest first; none where it has no name."""
    services = services_of(request)
    owner = owner_in(request, services, user)
    found = await services.webhooks.deliveries(owner, status=status, limit=limit)
    shown = DeliveryList(data=[DeliveryView.of(each) for each in found])
    return ApiResponse(shown.model_dump(mode="json"))


@router.post(
    "/v1/webhooks/deliveries/{delivery_id}/redeliver",
    response_model=DeliveryView,
    responses=failures(*WAITS, *TAKES_PARAMETERS, DeliveryNotFound, StoreUnavailable),
)
async def redeliver(request: Request, delivery_id: str, user: User = None) -> Response:
    """Send a message again, at once and as often as a new one, also one that was delivered."""
    services = services_of(request)
    owner = owner_in(request, services, user)
    delivery = await services.webhooks.redeliver(owner, delivery_id)
    return ApiResponse(DeliveryView.of(delivery).model_dump(mode="json"))
