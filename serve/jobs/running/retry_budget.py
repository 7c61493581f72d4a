"""RetryBudget: which errors time may heal, and how long that is waited for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines import errors

_HEALED_BY_TIME = (errors.Overloaded, errors.NotReady, errors.StageFailed)
_INCURABLE = (errors.DeadlineUnreachable,)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


@dataclass(slots=True)
class RetryBudget:
    """How often and how long a runner tries again, with what is drawn already, before it gives up.

    A stage that fails is tried three times, as the graph has tried it before; one that is full or
    not there yet is waited for, `patience_s` in all.
    """

    patience_s: float = 600.0
    failures_left: int = 2
    _tries: int = 0

    def pause_s(self, error: errors.SluiceError) -> float | None:
        """Seconds to wait before the next try; None if there is to be none."""
        if isinstance(error, _INCURABLE) or not isinstance(error, _HEALED_BY_TIME):
            return None
        if isinstance(error, errors.StageFailed):
            if self.failures_left == 0:
                return None
            self.failures_left -= 1
        if self.patience_s <= 0:
            return None
        pause_s = min(FIRST_PAUSE_S * 2**self._tries, LONGEST_PAUSE_S)
        self._tries += 1
        if isinstance(error, errors.Overloaded) and error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        pause_s = min(pause_s, self.patience_s)
        self.patience_s -= pause_s
        return pause_s
