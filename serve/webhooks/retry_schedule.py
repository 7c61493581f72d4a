"""RetrySchedule: when a message that failed is sent again. Pure: chance and time come from
outside."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_S = 5.0
_FACTOR = 4.0
_LONGEST_S = 3 * 3600.0
_JITTER = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySchedule:
    """5 s, 20 s, 80 s, ... and at last every three hours, each a quarter more or less, until they
    make up `max_age_s`.

    Delays are counted and no clock is read: a message gets all of its attempts also where the
    server itself was down for days, and again when it is sent again by hand.
    """

    max_age_s: float

    def delay_s(
        self, attempts: int, *, chance: float, retry_after_s: float | None = None
    ) -> float | None:
        """Seconds until the next attempt after `attempts` failed ones; None if that is given up.

        `chance` is in 0..1. A receiver that asks for more time gets it, up to three hours.
        """
        spent = sum(_plain_delay_s(n) for n in range(1, attempts))
        delay = _plain_delay_s(attempts)
        if spent + delay > self.max_age_s:
            return None
        jittered = delay * (1 + _JITTER * (2 * chance - 1))
        return max(jittered, min(retry_after_s or 0.0, _LONGEST_S))


def _plain_delay_s(attempts: int) -> float:
    return min(_FIRST_S * _FACTOR ** min(attempts - 1, 20), _LONGEST_S)
