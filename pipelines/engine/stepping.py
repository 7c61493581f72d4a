"""One step of a set of works on the stage: together, or each alone where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from pipelines.engine.breaker import Breaker
from pipelines.engine.entry import Entry
from pipelines.engine.stepper import Stepper
from pipelines.errors import StageLost

logger = logging.getLogger(__name__)

Alone = Callable[[Entry], AbstractContextManager[None]]
"""A context in which what is raised is that entry's caller's news."""


class Stepped(NamedTuple):
    """Those that did a step, and whether it was one for all of them."""

    entries: list[Entry]
    together: bool


def step(
    stage: Stepper[Any], entries: Sequence[Entry], *, breaker: Breaker, alone: Alone
) -> Stepped:
    """Step the entries together; if that fails, one by one, so that the culprit fails alone.

    Where all fail, the rest is left as it is. Raises StageLost.
    """
    try:
        stage.tick([entry.trajectory for entry in entries])
    except StageLost:
        raise
    except Exception:  # the loop must outlive whatever a work makes the stage raise
        logger.exception("a tick of %d works failed, stepping each alone", len(entries))
        return Stepped(_step_alone(stage, entries, breaker, alone), together=False)
    breaker.succeeded()
    return Stepped(list(entries), together=True)


def _step_alone(
    stage: Stepper[Any], entries: Sequence[Entry], breaker: Breaker, alone: Alone
) -> list[Entry]:
    stepped: list[Entry] = []
    for entry in entries:
        if breaker.open:
            break
        with alone(entry):
            stage.tick([entry.trajectory])
            stepped.append(entry)
            breaker.succeeded()
    return stepped
