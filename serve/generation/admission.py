"""Refuses work early: a bounded number of generations in flight, and when to come back.

When a place comes free is worked out from those that are taken: each is expected to be over once
the denoisers have done what was in flight before it, as they price it. What they really take, and
how long no place has come free, corrects that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.graph.forecast import Forecast
from deployments.metrics import declared as metrics
from pipelines.errors import Overloaded

_WEIGHT = 0.2
"""Share of the newest duration in the running means."""
_MOST_WRONG = 20.0
"""A forecast is corrected by at most this factor."""
_SOONEST_S = 0.05
_FIRST_S = 1.0
"""What a request takes as long as nothing is known: no denoiser has reported, none is over."""


@dataclass(slots=True, eq=False)
class _Place:
    """A request in flight: when it came, and when it should be over, in the clock's seconds."""

    tenant: str
    images: int
    since: float
    until: float


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
        self._places: dict[_Place, None] = {}
        self._mean_s: float | None = None
        self._slowness = 1.0
        """What requests take, as a multiple of what was expected."""
        self._busy_until = clock()
        """When the denoisers will have done all that is in flight, if nothing else comes."""
        self._freed_at = clock()

    def bound(self, max_in_flight: int, max_per_tenant: int) -> None:
        """Let in as many as this from now on; who is in stays."""
        self._max_in_flight = max_in_flight
        self._max_per_tenant = max_per_tenant

    @property
    def in_flight(self) -> int:
        """Images that are admitted and not over."""
        return self._by_tenant.total()

    @property
    def by_tenant(self) -> Mapping[str, int]:
        """The same by tenant, of those that have any."""
        return dict(self._by_tenant)

    @contextmanager
    def slot(
        self, tenant: str, images: int = 1, forecast: Forecast | None = None
    ) -> Generator[None]:
        """Hold a place for each image for the body's time, which `forecast` expects.

        Raises Overloaded when all places, or all that one tenant may have, are taken, with the time
        in which half of them should have come free. A request that finds one place free is let in
        whole: it could else wait for ever behind smaller ones.
        """
        self._check(tenant)
        place = self._take(tenant, images, forecast)
        try:
            yield
            self._learn(place)
        finally:
            del self._places[place]
            self._freed_at = self._clock()
            self._by_tenant[tenant] -= images
            if self._by_tenant[tenant] == 0:
                del self._by_tenant[tenant]

    def _take(self, tenant: str, images: int, forecast: Forecast | None) -> _Place:
        now = self._clock()
        place = _Place(tenant, images, now, self._over_at(now, forecast))
        self._places[place] = None
        self._by_tenant[tenant] += images
        return place

    def _over_at(self, now: float, forecast: Forecast | None) -> float:
        if forecast is None or forecast.eta_s is None or forecast.queued_s is None:
            return now + (_FIRST_S if self._mean_s is None else self._mean_s)
        # A report shows what it shows a second later, and not what is still being encoded.
        ahead = max(now + forecast.queued_s, self._busy_until if self._places else now)
        self._busy_until = ahead + forecast.work_s
        return max(ahead + forecast.eta_s - forecast.queued_s, self._busy_until)

    def _learn(self, place: _Place) -> None:
        took = self._clock() - place.since
        self._mean_s = took if self._mean_s is None else _moved(self._mean_s, took)
        expected = max(place.until - place.since, _SOONEST_S)
        factor = min(max(took / expected, 1 / _MOST_WRONG), _MOST_WRONG)
        self._slowness = _moved(self._slowness, factor)

    def _check(self, tenant: str) -> None:
        taken, of_tenant = self.in_flight, self._by_tenant[tenant]
        if of_tenant >= self._max_per_tenant:
            reason = "tenant"
            problem = f"{of_tenant} of your images are in flight, the limit for one tenant"
            places = [place for place in self._places if place.tenant == tenant]
        elif taken >= self._max_in_flight:
            reason = "server"
            problem = f"{taken} images are in flight, this server's limit"
            places = list(self._places)
        else:
            return
        metrics.ADMISSION_REFUSALS.add(reason=reason)
        raise Overloaded(
            f"{problem}; try again in a moment", retry_after_s=self._half_free_s(places)
        )

    def _half_free_s(self, places: Sequence[_Place]) -> float:
        """Seconds until half of the places should be free: by then others have come back, too."""
        now = self._clock()
        left, over = sum(place.images for place in places) / 2, now
        for place in sorted(places, key=lambda place: place.until):
            over = place.since + self._slowness * (place.until - place.since)
            left -= place.images
            if left <= 0:
                break
        # What has taken long will take longer: as long again as no place has come free.
        quiet_s = now - max(self._freed_at, min(place.since for place in places))
        return max(over - now, quiet_s if over < now else 0.0, _SOONEST_S)


def _moved(mean: float, newest: float) -> float:
    return mean + _WEIGHT * (newest - mean)
