"""Details: what a span's row says beside its name, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipelines.tracing.spans import Attribute
from serve.tracing.views.otlp_reader import ReadSpan

Facts = Mapping[str, Attribute]


def detail_of(name: str, facts: Facts, parts: Sequence[ReadSpan]) -> str:
    """Of a span with these attributes and parts; "" where the name says it all."""
    words = _WORDS.get(name)
    if words is not None:
        return ", ".join(filter(None, words(facts, parts)))
    return _text(facts, "sluice.outcome")


def _image(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    return [_text(facts, "sluice.image")]


def _run(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    outcome = _text(facts, "sluice.outcome").replace("_", " ")
    return [_text(facts, "sluice.attempt", "attempt "), outcome]


def _attempt(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    start = facts.get("sluice.start_step")
    return [
        _text(facts, "sluice.attempt", "attempt "),
        f"from step {int(start) + 1}" if isinstance(start, int) and start > 0 else "",
    ]


def _stretch(facts: Facts, parts: Sequence[ReadSpan]) -> list[str]:
    others = {link.trace_id for part in parts for link in part.links}
    return [
        _range(facts, "step"),
        f"shared with {counted(len(others), 'request')}" if others else "",
    ]


def _tick(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    return [
        _text(facts, "sluice.tick"),
        _counted(facts, "sluice.tick_images", "image"),
        _counted(facts, "sluice.tick_tokens", "token"),
    ]


def _encoded(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    return ["cached" if facts.get("sluice.cached") is True else ""]


def _batch(facts: Facts, _: Sequence[ReadSpan]) -> list[str]:
    size = facts.get("sluice.batch_size")
    return [f"batch of {size}" if isinstance(size, int) and size > 1 else ""]


_WORDS: Mapping[str, Callable[[Facts, Sequence[ReadSpan]], list[str]]] = {
    "image": _image,
    "job.run": _run,
    "denoise": _attempt,
    "fused": _attempt,
    "denoise.run": _stretch,
    "tick": _tick,
    "encode.run": _encoded,
    "decode.run": _batch,
    "safety.run": _batch,
}


def counted(number: int, noun: str) -> str:
    """`1 image`, `1,234 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _counted(facts: Facts, name: str, noun: str) -> str:
    value = facts.get(name)
    return counted(value, noun) if isinstance(value, int) else ""


def _text(facts: Facts, name: str, before: str = "") -> str:
    value = facts.get(name)
    return "" if value is None else f"{before}{value}"


def _range(facts: Facts, what: str) -> str:
    first, last = facts.get(f"sluice.{what}_first"), facts.get(f"sluice.{what}_last")
    if first is None or last is None:
        return ""
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"
