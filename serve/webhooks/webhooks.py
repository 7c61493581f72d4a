"""Webhooks: what the rest of the server knows of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pipelines.errors import DeliveryNotFound
from serve.jobs.job import Owner
from serve.jobs.store.delivery_store import Delivery, DeliveryStatus
from serve.jobs.store.open_store import Store
from serve.webhooks.secrets import WebhookSecrets
from serve.webhooks.sender import Message, WebhookSender
from serve.webhooks.targets import PARAM, WebhookTargets
from serve.webhooks.webhooks_config import WebhooksConfig


class Webhooks:
    """Which may be asked for, those that wait or were given up, and this replica's part in sending
    them. Without a `store` there are none."""

    def __init__(
        self,
        config: WebhooksConfig,
        store: Store | None,
        *,
        now: Callable[[], float],
    ) -> None:
        """Raises ConfigurationError for secrets that cannot be read."""
        self._config = config
        self._secrets = WebhookSecrets.load(config)
        self._targets = WebhookTargets(config)
        self._store = store
        self._now = now
        self._sending: asyncio.Task[None] | None = None

    def start(self, message: Message) -> None:
        """Send from now on, if any are allowed, what `message` makes of jobs."""
        if self._store is None or self._secrets is None:
            return
        sender = WebhookSender(
            self._config,
            self._secrets,
            store=self._store,
            message=message,
            now=self._now,
        )
        self._sending = asyncio.create_task(sender.run())

    async def close(self) -> None:
        """Leave what is under way to other replicas, or to the next start."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def check(self, url: str, *, param: str = PARAM) -> None:
        """As `WebhookTargets.check`."""
        self._targets.check(url, param=param)

    async def deliveries(
        self, owner: Owner, *, status: DeliveryStatus | None, limit: int
    ) -> tuple[Delivery, ...]:
        """The owner's, the newest first. Raises StoreUnavailable."""
        if self._store is None:
            return ()
        return await self._store.deliveries(owner, status=status, limit=limit)

    async def redeliver(self, owner: Owner, delivery_id: str) -> Delivery:
        """Send it once more, soon, whatever has become of it. Raises DeliveryNotFound,
        StoreUnavailable."""
        found = None
        if self._store is not None:
            found = await self._store.redeliver(owner, delivery_id, at=self._now())
        if found is None:
            raise DeliveryNotFound(f"no webhook delivery {delivery_id[:64]!r} is kept here")
        return found
