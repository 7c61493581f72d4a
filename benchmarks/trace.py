"""Arrivals with the shape of a real trace: what is asked for, by whom, and in which bursts.

The shape is Alibaba's GenTD26, 23 days of a text-to-image service (github.com/alibaba/clusterdata,
cluster-trace-v2026-GenAI). `read_trace` reads a copy of it; `drawn_trace` draws from its
distribution where there is none. Images and steps per request, users, re-rolls of a prompt and the
gaps between requests are the trace's. Sizes are not in it, and are assumed: see `MIXED_SIZES`.

Pure but for the reading: the same trace, seed and load give the same arrivals. Knows no server.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.requests import MIXED_SIZES, Size, prompts

TRACE_STEPS = 30
"""What nine of ten requests of the trace ask for; it stands for the served model's default."""

MAX_STEPS = 100

TIGHT, LOOSE = 1.5, 5.0
"""Deadlines as multiples of the solo time; half of the requests are tight."""

DEADLINE_SLACK_S = 1.0

BUSY_SHARE = 0.1
"""Windows start in this share of the hours, the busiest."""


class Kind(NamedTuple):
    """What decides how long a request takes alone."""

    size: Size
    steps: int
    n: int


Solo = Callable[[Kind], float]
"""Seconds that a request takes on an idle server."""


class TraceRow(NamedTuple):
    """A request of the trace. Equal `prompt_id`s are taken for re-rolls of one prompt."""

    at_s: float
    tenant: str
    prompt_id: str
    n: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request to be sent `at_s` seconds after the start, and answered within `deadline_s`."""

    at_s: float
    tenant: str
    n: int
    steps: int
    width: int
    height: int
    prompt: str
    seed: int
    deadline_s: float
    solo_s: float
    is_tight: bool


def arrivals(
    trace: Sequence[TraceRow],
    *,
    seed: int,
    load: float,
    window_s: float,
    solo: Solo,
    default_steps: int,
) -> list[Arrival]:
    """Requests whose solo times are together `load` seconds for each second, for about `window_s`.

    `seed` chooses where in a busy hour of `trace` they start, and their sizes, seeds and deadlines;
    `load` only how many there are, so that a higher load begins with the requests of a lower one.
    The trace's gaps are scaled by one factor. `default_steps` stand for `TRACE_STEPS`.
    """
    rng = random.Random(f"arrivals {seed}")
    rows = _onwards(trace, rng.choice(busy_starts(trace)))
    chosen: list[tuple[TraceRow, Kind, float]] = []
    offered_s = 0.0
    while offered_s < load * window_s:
        row = next(rows)
        steps = min(MAX_STEPS, max(1, round(row.steps * default_steps / TRACE_STEPS)))
        sizes, shares = zip(*MIXED_SIZES, strict=True)
        kind = Kind(rng.choices(sizes, shares)[0], steps, row.n)
        chosen.append((row, kind, solo(kind)))
        offered_s += chosen[-1][2]
    first_s = chosen[0][0].at_s
    # The gap before the request that is no longer sent belongs to the window.
    scale = offered_s / load / (next(rows).at_s - first_s)
    texts = _Texts(seed)
    details = random.Random(f"details {seed}")
    return [
        _arrival(row, kind, solo_s, (row.at_s - first_s) * scale, texts, details)
        for row, kind, solo_s in chosen
    ]


def busy_starts(trace: Sequence[TraceRow]) -> list[int]:
    """Positions in the `BUSY_SHARE` of the trace's hours that have the most requests."""
    by_hour = Counter(int(row.at_s // 3600) for row in trace)
    busy = {hour for hour, _ in by_hour.most_common(max(1, round(len(by_hour) * BUSY_SHARE)))}
    return [place for place, row in enumerate(trace) if int(row.at_s // 3600) in busy]


def rerolled_share(requests: Sequence[Arrival]) -> float:
    """The share of `requests` whose tenant has asked for the same prompt before."""
    seen: set[tuple[str, str]] = set()
    again = 0
    for request in requests:
        key = (request.tenant, request.prompt)
        again += key in seen
        seen.add(key)
    return again / len(requests)


def read_trace(folder: Path) -> list[TraceRow]:
    """The text-to-image requests of the one `*.csv.gz` in `folder`, by time.

    Its times are whole seconds; each request is put somewhere within its own. Requests of one user
    with equal lengths of prompt and negative prompt and the same model count as one prompt's.
    Raises FileNotFoundError unless there is exactly one such file.
    """
    files = sorted(folder.glob("*.csv.gz"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder} holds {len(files)} files *.csv.gz, not 1")
    rng = random.Random("within a second")
    with gzip.open(files[0], "rt", newline="") as file:
        rows = [
            TraceRow(
                at_s=datetime.fromisoformat(line["gmt_create"] + "+00:00").timestamp()
                + rng.random(),
                tenant=line["groupId"],
                prompt_id="/".join(line[name] for name in _PROMPT_COLUMNS),
                n=int(float(line["num_images_per_prompt"])),
                steps=int(float(line["num_inference_steps"])),
            )
            for line in csv.DictReader(file)
            if line["predict_type"] == "TXT_2_IMG" and line["num_images_per_prompt"]
        ]
    return sorted(rows)


_PROMPT_COLUMNS = (
    "groupId",
    "prompt_length",
    "negative_prompt_length",
    "checkpoint_model_version_id",
)

# The distribution of GenTD26's 26,823 requests, by its columns.
_IMAGES = ((1, 0.578), (2, 0.082), (4, 0.192), (8, 0.148))
_STEPS = ((30, 0.906), (40, 0.051), (35, 0.02), (25, 0.01), (50, 0.01), (100, 0.003))
_GAP_CV = 1.1
"""Coefficient of variation of the gaps inside a busy hour."""
_REROLLS = 0.29
_TOP_TENANTS, _TOP_SHARE, _TENANTS = 100, 0.37, 4247
_RECENT = 20
"""Requests among which the original of a re-roll is: most come within minutes."""


def drawn_trace(count: int = 4000) -> list[TraceRow]:
    """As many requests drawn from the trace's distribution, one in 14 s on average."""
    rng = random.Random("drawn trace")
    rows: list[TraceRow] = []
    at_s = 0.0
    for number in range(count):
        at_s += rng.gammavariate(1 / _GAP_CV**2, 14.0 * _GAP_CV**2)
        if rows and rng.random() < _REROLLS:
            original = rng.choice(rows[-_RECENT:])
            tenant, prompt_id = original.tenant, original.prompt_id
        else:
            is_top = rng.random() < _TOP_SHARE
            tenant = f"T{rng.randrange(*((_TOP_TENANTS,) if is_top else (_TOP_TENANTS, _TENANTS)))}"
            prompt_id = str(number)
        n, steps = (_pick(rng, table) for table in (_IMAGES, _STEPS))
        rows.append(TraceRow(at_s, tenant, prompt_id, n, steps))
    return rows


def _pick(rng: random.Random, table: Sequence[tuple[int, float]]) -> int:
    values, shares = zip(*table, strict=True)
    return rng.choices(values, shares)[0]


def _onwards(trace: Sequence[TraceRow], start: int) -> Iterator[TraceRow]:
    """The trace from `start`, and again from its beginning as often as is needed."""
    length_s = trace[-1].at_s - trace[0].at_s + 1.0
    for turn in itertools.count():
        for row in trace[start if turn == 0 else 0 :]:
            yield row._replace(at_s=row.at_s + turn * length_s)


class _Texts:
    """Sentences by the trace's prompt identifiers."""

    def __init__(self, seed: int) -> None:
        self._sentences = prompts(seed, count=512)
        self._places: dict[str, int] = {}

    def __getitem__(self, prompt_id: str) -> str:
        place = self._places.setdefault(prompt_id, len(self._places))
        turn, place = divmod(place, len(self._sentences))
        return self._sentences[place] + (f" {turn}" if turn else "")


def _arrival(
    row: TraceRow, kind: Kind, solo_s: float, at_s: float, texts: _Texts, rng: random.Random
) -> Arrival:
    is_tight = rng.random() < 0.5
    return Arrival(
        at_s=at_s,
        tenant=row.tenant,
        n=kind.n,
        steps=kind.steps,
        width=kind.size.width,
        height=kind.size.height,
        prompt=texts[row.prompt_id],
        seed=rng.randrange(2**31),
        deadline_s=(TIGHT if is_tight else LOOSE) * solo_s + DEADLINE_SLACK_S,
        solo_s=solo_s,
        is_tight=is_tight,
    )
