from __future__ import annotations

from pipelines.tracing.spans import Span
from serve.tracing.job_spans import JOB, RUN, each_once, job_link, job_span_id
from serve.tracing.recorder import Trace

TRACE = "a" * 32


def trace(name: str, *, links: tuple[str, ...] = (), **fields: str) -> Trace:
    root = Span(name=name, id=fields.pop("id", "c" * 16), start_ns=0, end_ns=1, links=links)
    return Trace(trace_id=fields.get("trace_id", TRACE), parent_id=fields.get("parent"), root=root)


def parts(job_id: str) -> dict[str, Trace]:
    span_id = job_span_id(job_id)
    return {
        RUN: trace(RUN, parent=span_id),
        "POST": trace("POST", links=(job_link(job_id, TRACE),)),
        JOB: trace(JOB, id=span_id),
    }


def test_a_job_that_is_over_is_listed_once():
    first, second = parts("job_1"), parts("job_2")
    other = trace("POST")
    every = [other, *first.values(), *second.values()]
    assert each_once(every) == [other, first[JOB], second[JOB]]
    assert each_once(reversed(every)) == [other, second[JOB], first[JOB]]


def test_before_that_its_submission_is():
    job = parts("job_1")
    assert each_once([job[RUN], job["POST"]]) == [job["POST"]]


def test_an_equal_submission_in_a_trace_of_its_own_is_a_request():
    job = parts("job_1")
    again = trace("POST", trace_id="b" * 32, links=(job_link("job_1", TRACE),))
    assert each_once([*job.values(), again]) == [again, job[JOB]]
