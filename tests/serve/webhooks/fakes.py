"""A store of deliveries in memory, with the protocol of the product's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from pipelines.errors import StoreUnavailable
from serve.jobs.job import Job, JobStatus, Owner
from serve.jobs.store.delivery_store import Attempted, Delivery, DeliveryStatus, DueDelivery


def finished_job(job_id: str = "job_1", *, tenant: str = "anna", webhook: str | None = None) -> Job:
    return Job(
        id=job_id,
        tenant=tenant,
        model="test-model",
        request={"prompt": "a cat"},
        body_sha256="",
        webhook=webhook,
        status=JobStatus.SUCCEEDED,
        created_at=1_700_000_000.0,
        finished_at=1_700_000_001.5,
    )


@dataclass
class FakeDeliveries:
    """Deliveries by id. `noted` has each attempt that was noted, `asked` is released by each claim.
    `is_down` makes all calls fail; `missed` is set when an attempt could not be noted."""

    kept: dict[str, Delivery] = field(default_factory=dict)
    noted: asyncio.Queue[tuple[Delivery, Attempted]] = field(default_factory=asyncio.Queue)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    missed: asyncio.Event = field(default_factory=asyncio.Event)
    is_down: bool = False

    def add(self, delivery_id: str, url: str, *, tenant: str = "anna", at: float = 0.0) -> Delivery:
        delivery = Delivery(
            id=delivery_id,
            job_id=f"job_{delivery_id}",
            tenant=tenant,
            url=url,
            created_at=at,
            next_at=at,
        )
        self.kept[delivery_id] = delivery
        return delivery

    async def claim_delivery(self, *, at: float, lease_s: float) -> DueDelivery | None:
        self.asked.release()
        self._fail_if_down()
        due = [
            each
            for each in self.kept.values()
            if each.status is DeliveryStatus.WAITING and each.next_at <= at
        ]
        if not due:
            return None
        first = min(due, key=lambda each: each.next_at)
        held = replace(first, next_at=at + lease_s)
        self.kept[first.id] = held
        return DueDelivery(delivery=held, job=finished_job(held.job_id))

    async def attempted(self, delivery: Delivery, outcome: Attempted) -> None:
        if self.is_down:
            self.missed.set()
        self._fail_if_down()
        if self.kept.get(delivery.id) == delivery:
            self.kept[delivery.id] = replace(
                delivery,
                status=outcome.status,
                next_at=outcome.next_at,
                attempts=delivery.attempts + 1,
                last_error=outcome.error,
                last_status=outcome.http_status,
            )
        self.noted.put_nowait((delivery, outcome))

    async def deliveries(
        self, owner: Owner, *, status: DeliveryStatus | None = None, limit: int = 100
    ) -> tuple[Delivery, ...]:
        self._fail_if_down()
        own = [
            each
            for each in self.kept.values()
            if owner.tenant and each.tenant == owner.tenant and status in (None, each.status)
        ]
        own.sort(key=lambda each: each.created_at, reverse=True)
        return tuple(own[:limit])

    async def redeliver(self, owner: Owner, delivery_id: str, *, at: float) -> Delivery | None:
        self._fail_if_down()
        found = self.kept.get(delivery_id)
        if found is None or not owner.tenant or found.tenant != owner.tenant:
            return None
        again = replace(found, status=DeliveryStatus.WAITING, next_at=at, attempts=0)
        self.kept[delivery_id] = again
        return again

    def _fail_if_down(self) -> None:
        if self.is_down:
            raise StoreUnavailable("the store cannot be reached")
