"""Subject: the span that a trace is about, which its summary and the page's head are of."""

from __future__ import annotations

from collections.abc import Sequence

from serve.tracing.job_spans import JOB
from serve.tracing.views.otlp_reader import ReadSpan


def subject_of(spans: Sequence[ReadSpan]) -> ReadSpan:
    """The first job of a trace's spans, which are there in order; where there is none, the first
    request."""
    here = {span.span_id for span in spans}
    jobs = [span for span in spans if span.name == JOB]
    tops = [span for span in spans if span.parent_span_id not in here]
    return next(iter((*jobs, *tops, *spans)))
