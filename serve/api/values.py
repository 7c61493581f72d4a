"""Checks of single values, which name the field and what is allowed."""

from __future__ import annotations

from pipelines.errors import InvalidRequest


def check_within(name: str, value: int, low: int, high: int) -> int:
    """`value`, if it is `low` to `high`; raises InvalidRequest."""
    if not low <= value <= high:
        raise InvalidRequest(f"{name}: must be {low} to {high}, got {_short(value)}", param=name)
    return value


def check_number(name: str, value: float, high: float) -> float:
    """`value`, if it is 0 to `high`; raises InvalidRequest."""
    if not 0.0 <= value <= high:
        raise InvalidRequest(f"{name}: must be 0 to {high:g}, got {value:g}", param=name)
    return value


def _short(value: int) -> str:
    return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
