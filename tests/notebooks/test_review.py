"""What the notebooks read out of traces, on spans that can be added up by hand."""

from __future__ import annotations

from typing import Any

import pytest

from review import critical_path, delays, read, seconds_by_name


def span(name: str, start_s: float, end_s: float, of: str | None = None) -> dict[str, Any]:
    """Under its own name as its id."""
    found = {
        "name": name.partition("#")[0],
        "spanId": name,
        "startTimeUnixNano": str(round(start_s * 1e9)),
        "endTimeUnixNano": str(round(end_s * 1e9)),
        "attributes": [{"key": "sluice.number", "value": {"intValue": "3"}}],
    }
    return found if of is None else {**found, "parentSpanId": of}


REQUEST = [
    span("POST", 10.0, 20.0),
    span("denoise.wait#a", 10.5, 11.0, of="image#a"),
    span("image#a", 10.5, 15.0, of="POST"),
    span("denoise.run#a", 11.0, 15.0, of="image#a"),
    span("image#b", 10.5, 19.0, of="POST"),
    span("denoise.wait#b", 10.5, 15.0, of="image#b"),
    span("denoise.run#b", 15.0, 18.0, of="image#b"),
    span("tick#b", 15.0, 15.5, of="denoise.run#b"),
]


def test_a_tree_is_read_onto_its_clock() -> None:
    root = read(REQUEST, origin_ns=10 * 10**9)
    assert (root.start_s, root.end_s, root.attributes) == (0.0, 10.0, {"sluice.number": 3})
    assert [node.name for _, node in root.walk()] == [
        *("POST", "image", "denoise.wait", "denoise.run"),
        *("image", "denoise.wait", "denoise.run", "tick"),
    ]


def test_the_critical_path_is_that_of_the_last_image_and_has_no_gap() -> None:
    root = read(REQUEST, origin_ns=0)
    pieces = critical_path(root)
    assert [piece.start_s for piece in pieces[1:]] == [piece.end_s for piece in pieces[:-1]]
    assert (pieces[0].start_s, pieces[-1].end_s) == (10.0, 20.0)
    assert seconds_by_name(pieces) == pytest.approx(
        {"POST": 1.5, "denoise.wait": 4.5, "denoise.run": 3.0, "image": 1.0}
    )


def test_who_waits_blames_those_that_are_stepped_at_that_moment() -> None:
    late = [
        span("POST", 12.0, 20.0),
        span("denoise.wait", 12.0, 16.0, of="POST"),
        span("denoise.run", 16.0, 17.0, of="POST"),
    ]
    other = [span("POST", 14.0, 20.0), span("denoise.run", 14.0, 19.0, of="POST")]
    roots = {
        name: read(spans, origin_ns=0)
        for name, spans in {"first": REQUEST, "late": late, "other": other}.items()
    }
    found = delays(roots)
    assert found["late", "first"] == pytest.approx(2.0 + 2.0 / 2)
    assert found["late", "other"] == pytest.approx(2.0 / 2)
    assert found["first", "first"] == pytest.approx(3.0 + 1.0 / 2)
    assert ("other", "first") not in found
