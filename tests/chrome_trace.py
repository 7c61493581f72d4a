"""What Perfetto wants of a trace in Chrome's format, checked by structure, and what is in one."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from typing import Any

Event = dict[str, Any]

PHASES = ["plan", "prepare", "step", "advance"]


def events_of(trace: bytes) -> list[Event]:
    """The events of a gzipped trace, once each has what its kind needs."""
    content = json.loads(gzip.decompress(trace))
    events: list[Event] = content["traceEvents"]
    for event in events:
        assert event["ph"] in "XMifst", event
        assert isinstance(event["name"], str)
        assert "pid" in event, event
        if event["ph"] != "M":
            assert isinstance(event["ts"], int | float), event
        if event["ph"] == "X":
            assert event["dur"] >= 0, event
            assert "tid" in event
        if event["ph"] in "fst":
            assert "id" in event, event
    _check_nesting(events)
    return events


def _check_nesting(events: list[Event]) -> None:
    """Slices of one thread lie within each other or apart: Perfetto drops those that do not."""
    threads: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(event)
    for slices in threads.values():
        ends: list[float] = []
        for each in sorted(slices, key=lambda each: (each["ts"], -each["dur"])):
            while ends and ends[-1] <= each["ts"] + 1e-3:
                ends.pop()
            end = each["ts"] + each["dur"]
            assert not ends or end <= ends[-1] + 1e-3, each
            ends.append(end)


def marks_of(events: list[Event]) -> list[Event]:
    """The engine's own marks, in their order."""
    marks = [event for event in events if event.get("cat") == "user_annotation"]
    return sorted(marks, key=lambda event: (event["ts"], -event["dur"]))


def ticks_of(events: list[Event]) -> list[str]:
    """The names of the ticks, in their order."""
    return [event["name"] for event in marks_of(events) if event["name"].startswith("tick ")]
