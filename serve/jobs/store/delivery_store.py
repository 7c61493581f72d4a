"""DeliveryStore: webhooks that are to be sent, as every store of jobs keeps them beside the jobs.

Whenever a job with a `webhook` is over, the store adds a delivery in the same transaction: none is
lost, and none is sent of a job that is not over. What is sent is made from the job, which does not
change any more. Where that is deleted, a delivery that waits keeps a copy of it until it is
delivered or given up, and is gone then; one that does not wait goes with its job.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serve.jobs.job import Job, Owner


class DeliveryStatus(StrEnum):
    """`WAITING` for its next attempt, `DELIVERED`, or `DEAD`: given up."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message to `url` that a job is over. Times are Unix seconds.

    `id` is the same in every attempt (`webhook-id`). `attempts` have been made, `last_error` says
    why the last one failed, with `last_status` if there was an answer.
    """

    id: str
    job_id: str
    tenant: str
    url: str
    created_at: float
    next_at: float
    status: DeliveryStatus = DeliveryStatus.WAITING
    attempts: int = 0
    last_error: str | None = None
    last_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueDelivery:
    """A delivery that is to be sent now, and the job that it tells of, as it was when it ended."""

    delivery: Delivery
    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """How an attempt ended: the delivery's new state."""

    status: DeliveryStatus
    next_at: float
    error: str | None = None
    http_status: int | None = None


class DeliveryStore(Protocol):
    """Every method may raise StoreUnavailable."""

    async def claim_delivery(self, *, at: float, lease_s: float) -> DueDelivery | None:
        """The waiting delivery that has been due longest; nobody else gets it until `at + lease_s`,
        to which its `next_at` is moved. None if none is due."""
        ...

    async def attempted(self, delivery: Delivery, outcome: Attempted) -> None:
        """Note an attempt, unless the delivery is gone or has been taken up again meanwhile."""
        ...

    async def deliveries(
        self, owner: Owner, *, status: DeliveryStatus | None = None, limit: int = 100
    ) -> tuple[Delivery, ...]:
        """The owner's deliveries, the newest first. None of a tenant that has no name."""
        ...

    async def redeliver(self, owner: Owner, delivery_id: str, *, at: float) -> Delivery | None:
        """Make a delivery wait again, due at `at`, its attempts counted anew; None if the owner has
        none of that id."""
        ...
