"""Archive: the traces that all ingress replicas keep, seen from one of them.

Each keeps those of the requests that it served, and any of them may be asked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from deployments.broadcast import AskAll
from serve.tracing.recorder import Trace
from serve.tracing.store import TraceStore

logger = logging.getLogger("ray.serve")

MAX_LISTED = 200
"""Traces of each replica in a list."""


class Archive:
    """`own` are this replica's; without `ask_all` there is no other."""

    def __init__(self, own: TraceStore, ask_all: AskAll | None = None) -> None:
        self._own = own
        self._ask_all = ask_all

    async def get(self, trace_id: str) -> list[Trace]:
        """The requests of that trace, in order; none if nobody keeps it. A job may be drawn by
        another replica than it was submitted to."""
        kept = self._own.get(trace_id)
        if self._ask_all is not None:
            told = _all_of(await self._ask_all("kept_traces", trace_id))
            kept = [*kept, *(trace for trace in told if trace not in kept)]
        return sorted(kept, key=lambda trace: trace.root.start_ns)

    async def latest(self) -> list[Trace]:
        """The roots of the latest traces, of each replica as many as are listed."""
        if self._ask_all is None:
            return roots_of(self._own)
        return _all_of(await self._ask_all("latest_traces"))


def roots_of(store: TraceStore) -> list[Trace]:
    """The latest, without what is below their roots, which is all that a list needs."""
    found: list[Trace] = []
    for trace in store.latest():
        found.append(replace(trace, root=replace(trace.root, children=())))
        if len(found) == MAX_LISTED:
            break
    return found


def _all_of(answers: list[Any]) -> list[Trace]:
    found: list[Trace] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            logger.warning("an ingress replica does not tell of its traces: %s", answer)
        else:
            found += answer
    return found
