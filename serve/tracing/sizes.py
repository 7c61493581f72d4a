"""Sizes: about how much memory spans take while they are kept."""

from __future__ import annotations

from pipelines.tracing.spans import Attributes, Span

_SPAN_BYTES = 400
"""Of a span without attributes: itself, its times, its name and its tuple of parts."""

_DICT_BYTES = 100
_ENTRY_BYTES = 100
"""Of an attribute beside its text; its name is shared by all spans."""

_EVENT_BYTES = 200
_TEXT_BYTES = 50


def span_bytes(span: Span) -> int:
    """About the bytes of a span with all its parts, from above rather than from below."""
    return (
        _SPAN_BYTES
        + _attribute_bytes(span.attributes)
        + sum(_EVENT_BYTES + _attribute_bytes(event.attributes) for event in span.events)
        + sum(_TEXT_BYTES + len(link) for link in span.links)
        + _text_bytes(span.error or "")
        + sum(map(span_bytes, span.children))
    )


def _attribute_bytes(attributes: Attributes) -> int:
    values = sum(map(_text_bytes, attributes.values()))
    return _DICT_BYTES + _ENTRY_BYTES * len(attributes) + values


def _text_bytes(value: object) -> int:
    # A character outside Latin-1 makes a whole text wide: four bytes each.
    return (len(value) if value.isascii() else 4 * len(value)) if isinstance(value, str) else 0
