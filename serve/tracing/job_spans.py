"""Which parts of a trace are of one job: its own span, those of its runs, and its submission's.

A job outlives the request that submitted it, and may outlive replicas that run it. So each tells of
its part once that is over, wherever it was. They are tied together by the id of the job's span,
which follows from the job's own id; that does not follow from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from serve.tracing.parent import parent_in, traceparent
from serve.tracing.recorder import Trace

JOB = "job"
"""The span of a job: from its submission to its end."""

RUN = "job.run"
"""A part of that one, in which a replica had the job; told by that replica, if it lived."""

SUBMITTED = "submitted"
"""The outcome of a request that has submitted one."""


def job_span_id(job_id: str) -> str:
    """The id of the job's span."""
    return hashlib.blake2b(job_id.encode(), digest_size=8).hexdigest()


def job_link(job_id: str, trace_id: str) -> str:
    """What the span of a request has among its links, if it submitted the job."""
    return traceparent(trace_id, job_span_id(job_id), is_sampled=True)


def each_once(traces: Iterable[Trace]) -> list[Trace]:
    """Of each job one: itself once it is over, before that its submission. And all others."""
    others: list[Trace] = []
    chosen: dict[tuple[str, str], Trace] = {}
    for trace in traces:
        span_id = _job_of(trace)
        if span_id is None:
            others.append(trace)
            continue
        key = (trace.trace_id, span_id)
        chosen[key] = min(chosen.get(key, trace), trace, key=_rank)
    return [*others, *chosen.values()]


def _job_of(trace: Trace) -> str | None:
    """The id of the span of the job that it is of."""
    if trace.root.name == JOB:
        return trace.root.id
    if trace.root.name == RUN:
        return trace.parent_id
    links = map(parent_in, trace.root.links)
    return next((link.span_id for link in links if link and link.trace_id == trace.trace_id), None)


def _rank(trace: Trace) -> int:
    return {JOB: 0, RUN: 2}.get(trace.root.name, 1)
