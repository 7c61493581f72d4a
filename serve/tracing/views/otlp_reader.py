"""Reading: OTLP's JSON as typed values. Knows the format, and nothing of what our spans mean.

What it reads may come from anywhere: identities are hexadecimal digits or it is refused, and text
is just text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from pipelines.tracing.spans import Attribute

FAILED = 2
"""`Status.code` of a span that failed."""

_MESSAGE_CHARS = 400


class NotATrace(ValueError):
    """What was read is not OTLP's JSON, or has no span."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class _Value(_Model):
    string_value: str | None = None
    int_value: int | None = None
    double_value: float | None = None
    bool_value: bool | None = None

    def plain(self) -> Attribute | None:
        """The value; None for lists and maps, which spans of ours do not have."""
        values = (self.string_value, self.bool_value, self.int_value, self.double_value)
        return next((value for value in values if value is not None), None)


class _Pair(_Model):
    key: str
    value: _Value = _Value()


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


TraceId = Annotated[str, BeforeValidator(_lower), Field(pattern=r"^[0-9a-f]{32}$")]
SpanId = Annotated[str, BeforeValidator(_lower), Field(pattern=r"^[0-9a-f]{16}$")]


class _Attributed(_Model):
    attributes: tuple[_Pair, ...] = ()

    def plain(self) -> dict[str, Attribute]:
        """The attributes by name."""
        pairs = ((pair.key, pair.value.plain()) for pair in self.attributes)
        return {key: value for key, value in pairs if value is not None}


class ReadEvent(_Attributed):
    """Something that happened within a span."""

    name: str
    time_unix_nano: int


class ReadLink(_Attributed):
    """Another span that one has to do with, of this trace or of another."""

    trace_id: TraceId
    span_id: SpanId


class _Status(_Model):
    code: int = 0
    message: str = ""


class ReadSpan(_Attributed):
    """A span; `parent_span_id` is "" at the top."""

    trace_id: TraceId
    span_id: SpanId
    parent_span_id: SpanId | Annotated[str, Field(max_length=0)] = ""
    name: str
    kind: int = 0
    start_time_unix_nano: int
    end_time_unix_nano: int
    events: tuple[ReadEvent, ...] = ()
    links: tuple[ReadLink, ...] = ()
    status: _Status = _Status()

    @property
    def end_ns(self) -> int:
        return max(self.start_time_unix_nano, self.end_time_unix_nano)

    @property
    def error(self) -> str | None:
        """Why it failed; None if it did not."""
        if self.status.code != FAILED:
            return None
        return self.status.message[:_MESSAGE_CHARS] or "failed"


class _Scope(_Model):
    spans: tuple[ReadSpan, ...] = ()


class _Resource(_Model):
    scope_spans: tuple[_Scope, ...] = ()


class _TracesData(_Model):
    resource_spans: tuple[_Resource, ...]


def read_spans(otlp: Mapping[str, object]) -> list[ReadSpan]:
    """All spans, by their start. Raises NotATrace."""
    try:
        data = _TracesData.model_validate(otlp)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise NotATrace(f"not a trace in OTLP's JSON: {where}: {first['msg']}") from error
    spans = [
        span
        for resource in data.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    if not spans:
        raise NotATrace("a trace without spans")
    # Of two that begin together the longer one holds the other.
    return sorted(spans, key=lambda span: (span.start_time_unix_nano, -span.end_ns))
