"""WebhookSender: takes deliveries from the store, sends them, and notes how each attempt ended.

Several ingress replicas share the work: a delivery is held under a lease while it is sent. Where a
replica dies in between, another sends it again under the same `webhook-id`, by which receivers
know that they have had it: at least once, never never.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from deployments.metrics import declared as metrics
from pipelines.errors import StoreUnavailable
from serve.jobs.job import Job
from serve.jobs.store.delivery_store import (
    Attempted,
    Delivery,
    DeliveryStatus,
    DeliveryStore,
    DueDelivery,
)
from serve.webhooks.post import Answered, NotSent, WebhookPost
from serve.webhooks.retry_schedule import RetrySchedule
from serve.webhooks.secrets import WebhookSecrets
from serve.webhooks.target import Target
from serve.webhooks.targets import WebhookTargets
from serve.webhooks.webhooks_config import WebhooksConfig

logger = logging.getLogger("ray.serve")

Message = Callable[[Job], Mapping[str, Any]]
"""What is told of a job that is over: JSON."""

_PATIENCE_S = 1.0
"""For which the next delivery waits until its tenant's share of the places has one for it."""
_LEASE_MARGIN_S = 10.0


class WebhookSender:
    """Sends until it is cancelled. An attempt of less than `patience_s` seconds is quick."""

    def __init__(
        self,
        config: WebhooksConfig,
        secrets: WebhookSecrets,
        *,
        store: DeliveryStore,
        message: Message,
        post: WebhookPost | None = None,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._secrets = secrets
        self._targets = WebhookTargets(config)
        self._store = store
        self._message = message
        self._post = post or WebhookPost(
            timeout_s=config.timeout_s, allow_private=config.allow_private
        )
        self._schedule = RetrySchedule(max_age_s=config.max_age_s)
        self._now = now
        self._chance = chance
        self._poll_s = config.poll_s
        # An attempt is over by then, whatever its receiver does.
        self._lease_s = config.timeout_s + patience_s + _LEASE_MARGIN_S
        self._places = asyncio.Semaphore(config.concurrency)
        self._shares = _Shares(max(1, config.concurrency // 4), patience_s)
        self._patience_s = patience_s

    async def run(self) -> None:
        """Send what is due. Cancelled, it leaves what it has begun to its leases."""
        async with asyncio.TaskGroup() as attempts:
            while True:
                await self._places.acquire()
                due = await self._next()
                if due is not None and await self._shares.take(share_of(due.delivery)):
                    attempts.create_task(self._attempt(due))
                else:
                    # Without a place in its share it comes again when its lease has run out.
                    self._places.release()
                if due is None:
                    await asyncio.sleep(self._poll_s)

    async def _next(self) -> DueDelivery | None:
        try:
            return await self._store.claim_delivery(at=self._now(), lease_s=self._lease_s)
        except StoreUnavailable as error:
            logger.warning("no webhook is sent now: %s", error.message)
        except Exception:  # the boundary of the task: webhooks would end for good
            logger.exception("no webhook is sent now")
        return None

    async def _attempt(self, due: DueDelivery) -> None:
        began, delivery = time.monotonic(), due.delivery
        try:
            outcome = await self._send(delivery, due.job)
            metrics.WEBHOOK_SECONDS.observe(time.monotonic() - began)
            metrics.WEBHOOK_ATTEMPTS.add(outcome=outcome.status.value)
            await self._store.attempted(delivery, outcome)
        except StoreUnavailable as error:
            logger.warning("webhook %s may be sent twice: %s", delivery.id, error.message)
        except Exception:  # one message that nobody foresaw must not end all others
            logger.exception("webhook %s: the attempt failed", delivery.id)
        finally:
            was_quick = time.monotonic() - began < self._patience_s
            self._shares.give(share_of(delivery), was_quick=was_quick)
            self._places.release()

    async def _send(self, delivery: Delivery, job: Job) -> Attempted:
        try:
            target = self._targets.find(delivery.url)
        except ValueError as error:  # the operator allows less than when it was submitted
            return self._given_up(str(error))
        body = json.dumps(self._message(job), separators=(",", ":"))
        try:
            answer = await self._post.send(
                target, self._headers(delivery, body), body.encode("utf-8")
            )
        except NotSent as error:
            return self._failed(delivery, target, str(error))
        if answer.is_ok:
            return Attempted(
                status=DeliveryStatus.DELIVERED,
                next_at=self._now(),
                http_status=answer.status,
            )
        return self._refused(delivery, target, answer)

    def _headers(self, delivery: Delivery, body: str) -> dict[str, str]:
        at = datetime.fromtimestamp(int(self._now()), UTC)
        return {
            "content-type": "application/json",
            "user-agent": "Sluice-Webhooks",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._secrets.sign(delivery.tenant, delivery.id, at, body),
        }

    def _refused(self, delivery: Delivery, target: Target, answer: Answered) -> Attempted:
        status = answer.status
        if status == HTTPStatus.GONE:
            return self._given_up("answered 410: the receiver wants no more", status)
        why = f"answered {status}"
        if 300 <= status < 400:
            why += ": redirects are not followed; name the final URL"
        return self._failed(delivery, target, why, status, answer.retry_after_s)

    def _failed(
        self,
        delivery: Delivery,
        target: Target,
        why: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> Attempted:
        attempts = delivery.attempts + 1
        delay = self._schedule.delay_s(attempts, chance=self._chance(), retry_after_s=retry_after_s)
        # The URL's path may hold a receiver's own secret.
        logger.info("webhook %s to %s, attempt %d: %s", delivery.id, target.origin, attempts, why)
        if delay is None:
            return self._given_up(why, status)
        return Attempted(
            status=DeliveryStatus.WAITING,
            next_at=self._now() + delay,
            error=why,
            http_status=status,
        )

    def _given_up(self, why: str, status: int | None = None) -> Attempted:
        return Attempted(
            status=DeliveryStatus.DEAD, next_at=self._now(), error=why, http_status=status
        )


class _Shares:
    """Places of each tenant, so that slow receivers of one do not hold up the others'.

    A share that stayed full for as long as one waits for it is not waited for again, until one of
    its attempts was quick.
    """

    def __init__(self, size: int, patience_s: float) -> None:
        self._size = size
        self._patience_s = patience_s
        self._taken: Counter[str] = Counter()
        self._slow: set[str] = set()
        self._freed = asyncio.Event()

    async def take(self, name: str) -> bool:
        """Take a place of `name`; False if there is none for a while."""
        if self._taken[name] >= self._size and name not in self._slow:
            try:
                async with asyncio.timeout(self._patience_s):
                    while self._taken[name] >= self._size:
                        self._freed.clear()
                        await self._freed.wait()
            except TimeoutError:
                self._slow.add(name)
        if self._taken[name] >= self._size:
            return False
        self._taken[name] += 1
        return True

    def give(self, name: str, *, was_quick: bool) -> None:
        self._taken[name] -= 1
        if self._taken[name] == 0:
            del self._taken[name]
        if was_quick or name not in self._taken:
            self._slow.discard(name)
        self._freed.set()


def share_of(delivery: Delivery) -> str:
    """Who has the share that a delivery is sent in: its tenant, else its target."""
    if delivery.tenant:
        return delivery.tenant
    try:
        return Target.parse(delivery.url).origin
    except ValueError:
        return ""
