"""Traces that go on where they were begun by another request."""

from __future__ import annotations

from serve.settings.sections import TracingConfig
from serve.tracing.recorder import Recorder, Trace


class Kept:
    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def put(self, trace: Trace) -> None:
        self.traces.append(trace)

    def close(self) -> None:
        """Nothing is held."""


def test_more_of_a_trace_has_its_id_and_the_parent_that_is_named():
    kept = Kept()
    recorder = Recorder(TracingConfig(), (kept,))
    first = recorder.begin("POST", None)
    recorder.end(first)
    recorder.end(recorder.go_on("job.run", first.trace_id, "a" * 16))
    assert [trace.trace_id for trace in kept.traces] == [first.trace_id] * 2
    assert [trace.root.name for trace in kept.traces] == ["POST", "job.run"]
    assert kept.traces[1].parent_id == "a" * 16


def test_what_is_not_recorded_does_not_go_on_recorded():
    kept = Kept()
    recorder = Recorder(TracingConfig(sample_ratio=0.0), (kept,))
    recorder.end(recorder.go_on("job.run", recorder.begin("POST", None).trace_id, "a" * 16))
    assert kept.traces == []


def test_a_job_without_a_trace_has_one_of_its_own():
    assert len(Recorder(TracingConfig()).go_on("job.run", "", "a" * 16).trace_id) == 32
