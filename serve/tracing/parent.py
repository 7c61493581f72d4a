"""Where a trace comes from: the client's `traceparent`, or nowhere. W3C Trace Context, level 1."""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

_SAMPLED = 0x01
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """A client's span: 32 and 16 hexadecimal digits, and whether the client records it."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parent_in(header: str | None) -> Parent | None:
    """The parent that a `traceparent` names; None for one that is missing or not valid.

    As the standard asks, what is not valid is ignored, and a later version read as this one.
    """
    found = _TRACEPARENT.fullmatch((header or "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    is_odd = version == "ff" or (version == "00" and more is not None)
    if is_odd or int(trace_id, 16) == 0 or int(span_id, 16) == 0:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def traceparent(trace_id: str, span_id: str, *, is_sampled: bool) -> str:
    """The header for what comes after a span."""
    return f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}"


def new_trace_id() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)


def is_chosen(trace_id: str, ratio: float) -> bool:
    """Whether a trace is among the share `ratio` that is recorded; the same on every machine.

    By the lower 64 bits of its id, as OpenTelemetry's `TraceIdRatioBased`.
    """
    return int(trace_id[16:], 16) < round(ratio * 2**64)
