"""Words: times and counts as people read them, on the page and in the terminal."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))


def duration(nanoseconds: float) -> str:
    """Three digits and a unit: `1.69 s`, `41.2 ms`, `350 µs`."""
    if nanoseconds == 0:
        return "0"
    for size, unit in _UNITS:
        # What would be rounded up to 1000 of a unit is 1 of the next.
        if abs(nanoseconds) >= 0.9995 * size:
            return f"{_digits(nanoseconds / size)} {unit}"
    return f"{nanoseconds:.0f} ns"


def share(part: float, whole: float) -> str:
    """`12.3 %`."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def moment(unix_s: float) -> str:
    """UTC to the millisecond; "-" for what no calendar has."""
    try:
        at = datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, ValueError, OSError):
        return "-"
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"


def short(identity: str) -> str:
    """The first of many hexadecimal digits: enough to tell one from another."""
    return identity[:8]


def _digits(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{decimals}f}"
