"""Times as answers and webhooks write them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(at: float) -> str:
    """Unix seconds in ISO 8601 to the millisecond, in UTC: `2026-01-02T03:04:05.678Z`."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
