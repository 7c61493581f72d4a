"""Summary: one line about a trace, for lists; and which traces a list is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.tracing.spans import Attribute
from serve.tracing.job_spans import SUBMITTED
from serve.tracing.views.otlp_reader import ReadSpan, read_spans
from serve.tracing.views.subject import subject_of

_TOO_MANY = 429

_SLOWEST = 10
"""Of this many requests one is slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """What was asked and what became of it. `started` is Unix seconds; never a prompt.

    `status` is HTTP's, which a job has none of; `queued_seconds` are a job's alone. `tenant` is
    None for all who have none. `deadline_met` is None where there was no deadline, where it was
    refused, and where the client is the cause that nothing came.
    """

    trace_id: str
    request_id: str
    tenant: str | None
    started: float
    seconds: float
    status: int | None
    outcome: str
    model: str | None
    size: str | None
    images: int
    deadline_ms: int | None
    deadline_met: bool | None
    error: str | None
    queued_seconds: float | None = None

    @property
    def badge(self) -> Literal["good", "bad", "idle"]:
        """How its outcome is shown; idle is what is not over, or was not wanted any more."""
        if self.has_failed:
            return "bad"
        return "idle" if self.outcome in (SUBMITTED, "cancelled") else "good"

    @property
    def has_failed(self) -> bool:
        return self.error is not None or (self.status is not None and self.status >= 400)

    @property
    def deadline_result(self) -> Literal["met", "missed", "refused"] | None:
        """What became of the deadline; a refused one was promised to nobody, so is not missed."""
        if self.deadline_met is not None:
            return "met" if self.deadline_met else "missed"
        is_refused = self.deadline_ms is not None and (
            self.status == _TOO_MANY or self.outcome == "expired"
        )
        return "refused" if is_refused else None


class TraceList(BaseModel):
    """The answer of `GET /traces` in JSON."""

    model_config = ConfigDict(frozen=True)

    object: Literal["list"] = "list"
    data: tuple[TraceSummary, ...]

    def as_json(self) -> dict[str, object]:
        """What `GET /traces` answers with `accept: application/json`."""
        return {"object": self.object, "data": [asdict(summary) for summary in self.data]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilters:
    """Which traces are wanted: those that all of these hold for.

    `slow`: among the slowest tenth of those there are. `missed`: the deadline was, not refused.
    `failed`: an error was answered.
    """

    slow: bool = False
    missed: bool = False
    failed: bool = False
    tenant: str | None = None
    """An empty one, as a form sends it, is none."""

    @property
    def chosen(self) -> bool:
        """Whether anything is left out."""
        return bool(self.query())

    def query(self) -> dict[str, str]:
        """As parameters of `GET /traces`."""
        chosen = {name: "1" for name in ("slow", "missed", "failed") if getattr(self, name)}
        return {**chosen, "tenant": self.tenant} if self.tenant else chosen

    def select(
        self, traces: Iterable[TraceSummary], *, shown: Callable[[str], str] = str
    ) -> list[TraceSummary]:
        """Those that are wanted, the newest first. `shown` is how a tenant's name stands in
        `traces`: one may be asked for by either."""
        every = list(traces)
        tenants = (self.tenant, shown(self.tenant)) if self.tenant else None
        slow_s = _slow_s(every)
        wanted = [
            trace
            for trace in every
            if (not self.slow or trace.seconds >= slow_s)
            and (not self.missed or trace.deadline_result == "missed")
            and (not self.failed or trace.has_failed)
            and (tenants is None or trace.tenant in tenants)
        ]
        return sorted(wanted, key=lambda trace: trace.started, reverse=True)


def summarise(otlp: Mapping[str, object]) -> TraceSummary:
    """The summary of a trace in OTLP's JSON: of its job, or first request. Raises NotATrace."""
    spans = read_spans(otlp)
    root = subject_of(spans)
    facts = root.plain()
    status = _number(facts, "http.response.status_code")
    return TraceSummary(
        trace_id=root.trace_id,
        request_id=_text(facts, "sluice.request_id") or "",
        tenant=_text(facts, "sluice.tenant") or None,
        started=root.start_time_unix_nano / 1e9,
        seconds=(root.end_ns - root.start_time_unix_nano) / 1e9,
        status=status,
        outcome=_text(facts, "sluice.outcome") or _outcome(root, status),
        model=_text(facts, "gen_ai.request.model"),
        size=_text(facts, "sluice.size"),
        images=_number(facts, "gen_ai.request.choice.count") or _images(root, spans),
        deadline_ms=_number(facts, "sluice.deadline_ms"),
        deadline_met=_truth(facts, "sluice.deadline_met"),
        error=root.error,
        queued_seconds=_seconds(facts, "sluice.queued_s"),
    )


def _slow_s(traces: Sequence[TraceSummary]) -> float:
    """The seconds of the fastest trace of the slowest tenth."""
    lengths = sorted((trace.seconds for trace in traces), reverse=True)
    return lengths[math.ceil(len(lengths) / _SLOWEST) - 1] if lengths else math.inf


def _outcome(root: ReadSpan, status: int | None) -> str:
    return "failed" if root.error is not None or (status or 0) >= 400 else "ok"


def _images(root: ReadSpan, spans: Iterable[ReadSpan]) -> int:
    return sum(span.name == "image" and span.parent_span_id == root.span_id for span in spans)


def _text(facts: Mapping[str, Attribute], name: str) -> str | None:
    value = facts.get(name)
    return None if value is None else str(value)


def _number(facts: Mapping[str, Attribute], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(facts: Mapping[str, Attribute], name: str) -> float | None:
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else None


def _truth(facts: Mapping[str, Attribute], name: str) -> bool | None:
    value = facts.get(name)
    return value if isinstance(value, bool) else None
