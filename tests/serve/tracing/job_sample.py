"""A job's trace in OTLP's JSON: submitted, queued, lost once with its runner, taken up again."""

from __future__ import annotations

from typing import Any

from tests.serve.tracing.sample import Attributes, TraceBuilder

JOB: Attributes = {
    "gen_ai.request.model": "flux.1-dev",
    "gen_ai.request.choice.count": 2,
    "gen_ai.request.seed": 421,
    "sluice.size": "1024x1024",
    "sluice.steps": 28,
    "sluice.tenant": "atelier",
    "sluice.outcome": "succeeded",
    "sluice.attempts": 2,
    "sluice.queued_s": 1.5,
}


def job_sample(
    *, outcome: str = "succeeded", error: str | None = None, is_over: bool = True
) -> dict[str, Any]:
    """13 s in all. One that `is_over` has a span of its own."""
    built = TraceBuilder()
    job_id = f"{2:016x}"
    facts: Attributes = {
        "http.request.method": "POST",
        "http.route": "/v1/jobs",
        "http.response.status_code": 202,
        "sluice.request_id": "req-7c1f0e52a9",
        "sluice.outcome": "submitted",
    }
    links = [(built.trace_id, job_id)]
    post = built.span("POST /v1/jobs", 0, 8.6, attributes=facts, links=links, kind=2)
    if is_over:
        made = built.span(
            "job", 2, 13_002, attributes={**JOB, "sluice.outcome": outcome}, error=error
        )
        assert made == job_id
        built.span("queue.wait", 2, 1_502, job_id)
        lost = {"sluice.attempt": 1}
        built.span("job.run", 1_502, 6_000, job_id, lost, error="its runner was lost")
        again = {"sluice.attempt": 2, "sluice.outcome": "ok"}
        run = built.span("job.run", 6_000, 12_990, job_id, again)
        built.span("admit", 6_000, 6_004, run)
        image = built.span("image", 6_005, 12_980, run, {"sluice.image": 0})
        attempt = built.span(
            "denoise", 6_006, 12_000, image, {"sluice.attempt": 1, "sluice.start_step": 9}
        )
        built.span(
            "denoise.run", 6_010, 12_000, attempt, {"sluice.step_first": 10, "sluice.step_last": 28}
        )
        built.span("decode.run", 12_010, 12_900, image)
    built.span("admit", 0.4, 1.1, post)
    built.span("respond", 5, 8.5, post)
    return built.otlp()
