"""Reads traces in OTLP's JSON: spans on one clock, critical paths, and who kept whom waiting.

Works on spans alone, so a file that a server or a collector wrote will do. Knows the names of spans
that `serve/README.md` lists, and no server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

WAITING = ("denoise.wait", "denoise.paused")
"""Spans in which a request is in the denoiser, and others are stepped."""


class Piece(NamedTuple):
    """A part of a critical path, in seconds: `name` is that of the span that ran then."""

    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A span with its parts; times are seconds since the origin that `read` was given."""

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Any]
    children: tuple[Node, ...]

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def walk(self, depth: int = 0) -> Iterable[tuple[int, Node]]:
        """It and all of its parts with their depths, by their start."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def all_of(self, *names: str) -> list[Node]:
        """Its parts of these names, at any depth."""
        return [node for _, node in self.walk() if node.name in names]


def read(spans: Sequence[Mapping[str, Any]], *, origin_ns: int) -> Node:
    """The tree of one request's spans, its root first among them."""
    parts: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for span in spans[1:]:
        parts[span["parentSpanId"]].append(span)

    def node(span: Mapping[str, Any]) -> Node:
        children = sorted(parts[span["spanId"]], key=lambda part: int(part["startTimeUnixNano"]))
        return Node(
            name=span["name"],
            start_s=(int(span["startTimeUnixNano"]) - origin_ns) / 1e9,
            end_s=(int(span["endTimeUnixNano"]) - origin_ns) / 1e9,
            attributes={item["key"]: _value(item["value"]) for item in span["attributes"]},
            children=tuple(node(part) for part in children),
        )

    return node(spans[0])


def critical_path(node: Node) -> list[Piece]:
    """What the end of `node` waited for, from its start on, without a gap.

    Backwards from the end: the part that ended last, then the one that ended last before that
    began, and so on. Time that no part covers is the span's own. Ticks are left out, as only a
    sample of them is kept.
    """
    pieces: list[Piece] = []
    reached = node.end_s
    for child in sorted(node.children, key=lambda child: -child.end_s):
        if child.name == "tick" or child.start_s >= reached or child.end_s > reached + 1e-9:
            continue
        if child.end_s < reached:
            pieces.append(Piece(node.name, child.end_s, reached))
        pieces += reversed(critical_path(child))
        reached = child.start_s
    if node.start_s < reached:
        pieces.append(Piece(node.name, node.start_s, reached))
    return pieces[::-1]


def seconds_by_name(pieces: Iterable[Piece]) -> dict[str, float]:
    """Seconds of the pieces of each name."""
    found: dict[str, float] = defaultdict(float)
    for piece in pieces:
        found[piece.name] += piece.seconds
    return dict(found)


def delays(roots: Mapping[str, Node]) -> dict[tuple[str, str], float]:
    """Seconds that (one request, by another's steps) waited in the denoiser.

    While a request waits there, those that are stepped at that moment share the blame equally; its
    own other images count as well. A request of several images waits once, however many of them do.
    """
    running = [
        (name, run.start_s, run.end_s)
        for name, root in roots.items()
        for run in root.all_of("denoise.run")
    ]
    found: dict[tuple[str, str], float] = defaultdict(float)
    for name, root in roots.items():
        waits = [piece for piece in critical_path(root) if piece.name in WAITING]
        for _, low, high in waits:
            for start, end in pairwise(_edges(running, low, high)):
                at = (start + end) / 2
                ones = {other for other, begin, stop in running if begin <= at < stop}
                for other in ones:
                    found[name, other] += (end - start) / len(ones)
    return dict(found)


def _edges(running: Iterable[tuple[str, float, float]], low: float, high: float) -> list[float]:
    """Moments between `low` and `high`, these included, at which who runs may change."""
    inside = {at for _, start, end in running for at in (start, end) if low < at < high}
    return sorted({low, high, *inside})


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    return int(content) if kind == "intValue" else content
