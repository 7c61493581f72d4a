"""RedisDeliveries: the messages to webhooks that a Redis keeps beside its jobs."""

from __future__ import annotations

from serve.jobs.job import Owner
from serve.jobs.store.delivery_store import Attempted, Delivery, DeliveryStatus, DueDelivery
from serve.jobs.store.job_json import job_from_json
from serve.jobs.store.redis import records
from serve.jobs.store.redis.connection import RedisConnection


class RedisDeliveries:
    """A `DeliveryStore`."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis

    async def claim_delivery(self, *, at: float, lease_s: float) -> DueDelivery | None:
        until = records.number(at + lease_s)
        found = await self._redis.run("deliveries", "claim", records.number(at), until)
        if found is None:
            return None
        fields, document = found
        delivery = records.delivery(dict(records.pairs(fields)))
        return DueDelivery(delivery=delivery, job=job_from_json(document))

    async def attempted(self, delivery: Delivery, outcome: Attempted) -> None:
        await self._redis.run(
            "deliveries",
            "attempted",
            delivery.id,
            records.number(delivery.next_at),
            outcome.status,
            records.number(outcome.next_at),
            records.text(outcome.error),
            records.text(outcome.http_status),
        )

    async def deliveries(
        self, owner: Owner, *, status: DeliveryStatus | None = None, limit: int = 100
    ) -> tuple[Delivery, ...]:
        if not owner.tenant:
            return ()
        wanted = DeliveryStatus if status is None else (status,)
        keys = [self._redis.key("deliveries", each, owner.tenant) for each in wanted]
        ids = await self._redis.newest(keys, None, limit)
        hashes = [self._redis.key("delivery", each) for each in ids]
        found = await self._redis.all(lambda pipe: [pipe.hgetall(key) for key in hashes])
        return tuple(records.delivery(fields) for fields in found if fields)

    async def redeliver(self, owner: Owner, delivery_id: str, *, at: float) -> Delivery | None:
        found = await self._redis.run(
            "deliveries", "redeliver", delivery_id, owner.tenant, records.number(at)
        )
        return None if found is None else records.delivery(dict(records.pairs(found)))
