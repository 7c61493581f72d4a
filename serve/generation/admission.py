"""Refuses work early: a bounded number of generations in flight, and a guess when to come back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from deployments.metrics import declared as metrics
from pipelines.errors import Overloaded

_WEIGHT = 0.2
"""Share of the newest duration in the running mean."""


class Admission:
    """Counts images in flight, in all and by tenant. For one event loop.

    `clock` is in seconds.
    """

    def __init__(
        self,
        max_in_flight: int,
        max_per_tenant: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._max_per_tenant = max_per_tenant
        self._clock = clock
        self._by_tenant: Counter[str] = Counter()
        self._mean_s = 1.0

    def bound(self, max_in_flight: int, max_per_tenant: int) -> None:
        """Let in as many as this from now on; who is in stays."""
        self._max_in_flight = max_in_flight
        self._max_per_tenant = max_per_tenant

    @property
    def in_flight(self) -> int:
        """Images that are admitted and not over."""
        return self._by_tenant.total()

    @contextmanager
    def slot(self, tenant: str, images: int = 1) -> Generator[None]:
        """Hold a place for each image for the body's time.

        Raises Overloaded when all places, or all that one tenant may have, are taken, with the mean
        duration of a request as the time to come back in. A request that finds one place free is
        let in whole: it could else wait for ever behind smaller ones.
        """
        self._check(tenant)
        self._by_tenant[tenant] += images
        start = self._clock()
        try:
            yield
            self._mean_s += _WEIGHT * (self._clock() - start - self._mean_s)
        finally:
            self._by_tenant[tenant] -= images
            if self._by_tenant[tenant] == 0:
                del self._by_tenant[tenant]

    def _check(self, tenant: str) -> None:
        taken, of_tenant = self.in_flight, self._by_tenant[tenant]
        if of_tenant >= self._max_per_tenant:
            reason = "tenant"
            problem = f"{of_tenant} of your images are in flight, the limit for one tenant"
        elif taken >= self._max_in_flight:
            reason = "server"
            problem = f"{taken} images are in flight, this server's limit"
        else:
            return
        metrics.ADMISSION_REFUSALS.add(reason=reason)
        raise Overloaded(f"{problem}; try again in a moment", retry_after_s=self._mean_s)
