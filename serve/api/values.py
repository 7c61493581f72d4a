"""Checks of single values, which name the field and what is allowed."""

from __future__ import annotations

from pipelines.errors import InvalidRequest


def check_within(name: str, value: int, low: int, high: int, *, or_else: str = "") -> int:
    """`value`, if it is `low` to `high`; raises InvalidRequest, which also names what else would be
    taken: `or_else`."""
    if not low <= value <= high:
        allowed = f"{low} to {high}{f', or {or_else}' if or_else else ''}"
        raise InvalidRequest(f"{name}: must be {allowed}, got {_short(value)}", param=name)
    return value


def check_number(name: str, value: float, high: float) -> float:
    """`value`, if it is 0 to `high`; raises InvalidRequest."""
    if not 0.0 <= value <= high:
        raise InvalidRequest(f"{name}: must be 0 to {high:g}, got {value:g}", param=name)
    return value


def _short(value: int) -> str:
    return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
