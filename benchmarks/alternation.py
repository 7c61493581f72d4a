"""Time several ways to take the same step, each in turn with the first, so that a changing machine
changes both alike.

A way that fails is recorded with its reason and the others go on.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import torch

from pipelines.errors import SluiceError

Step = Callable[[], torch.Tensor]
"""One step; what it returns is compared between ways."""

FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
    OSError,
    SluiceError,
)
"""What a way may fail with. Torch's own errors (memory, compilation, kernels) are RuntimeErrors;
the others are those of packages built for another torch."""

_GIB = 2**30


class Way(NamedTuple):
    """A step by its name, made when its turn comes. `needs_cuda`: elsewhere it is skipped."""

    name: str
    make: Callable[[], Step]
    needs_cuda: bool = False


class Limit(NamedTuple):
    """When a way was timed enough: after `rounds`, or after `seconds` of its own."""

    rounds: int = 5
    seconds: float = 2.0


ENOUGH = Limit()


@dataclass(slots=True, kw_only=True)
class Timing:
    """One way's milliseconds by the device's clock, or the reason why it has none.

    `host_ms` is how long each call kept the host; on a CPU the call is all there is. `first_s` is
    its making and first call, with compilation; `peak_gib` the most memory that was allocated on
    the GPU. Of the first way that ran: `ratio` is its time over this one's, both in the same
    rounds, `difference` the largest between the results, relative to the largest value, and
    `same_bits` whether there is none.
    """

    ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    first_s: float | None = None
    peak_gib: float | None = None
    ratio: float | None = None
    difference: float | None = None
    same_bits: bool | None = None
    failure: str | None = None
    skipped: str | None = None


class _Baseline(NamedTuple):
    step: Step
    output: torch.Tensor


def in_pairs(
    ways: Iterable[Way],
    *,
    device: torch.device,
    limit: Limit = ENOUGH,
    is_late: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Way, Timing]]:
    """Each way with its timing as soon as it is there; nothing is made before its turn.

    The first way that works is the baseline: it is timed alone, and once more in turn with each of
    the others. Once `is_late` says so, no way is begun and no round.
    """
    baseline: _Baseline | None = None
    for way in ways:
        timing = Timing()
        if way.needs_cuda and device.type != "cuda":
            timing.skipped = "needs CUDA"
        elif is_late():
            timing.skipped = "no time left"
        else:
            with torch.inference_mode():
                made = _measure(way, timing, baseline, device, limit, is_late)
            if made is None:
                _free(device)
            baseline = baseline or made
            del made
        yield way, timing


def _measure(
    way: Way,
    timing: Timing,
    baseline: _Baseline | None,
    device: torch.device,
    limit: Limit,
    is_late: Callable[[], bool],
) -> _Baseline | None:
    """Fills `timing`; returns what later ways can be compared with, None where this one failed."""
    try:
        step, output = _warm_up(way.make, timing, device)
        if baseline is None:
            _rounds([(step, timing)], device, limit, is_late)
            timing.ratio, timing.difference, timing.same_bits = 1.0, 0.0, True
            return _Baseline(step, output)
        gap = (output - baseline.output).abs().max()
        timing.difference = float(gap / baseline.output.abs().max())
        timing.same_bits = torch.equal(output, baseline.output)
        beside = Timing()
        _rounds([(baseline.step, beside), (step, timing)], device, limit, is_late)
        timing.ratio = median(beside.ms) / median(timing.ms)
        return _Baseline(step, output)
    except FAILURES as error:
        timing.failure = reason(error)
    return None


def _rounds(
    pair: list[tuple[Step, Timing]],
    device: torch.device,
    limit: Limit,
    is_late: Callable[[], bool],
) -> None:
    """At least one round, so that a way that was warmed up has a time."""
    for round_number in range(limit.rounds):
        spent = max(sum(timing.ms) for _, timing in pair) / 1000
        if round_number and (spent >= limit.seconds or is_late()):
            break
        for step, timing in pair:
            _time(step, timing, device)


def _warm_up(
    make: Callable[[], Step], timing: Timing, device: torch.device
) -> tuple[Step, torch.Tensor]:
    """The step, and its output in float32. Raises ValueError when that is not finite."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    step = make()
    output = step().float().clone()
    _synchronize(device)
    timing.first_s = time.perf_counter() - start
    step()
    _synchronize(device)
    if device.type == "cuda":
        timing.peak_gib = torch.cuda.max_memory_allocated(device) / _GIB
    if not bool(output.isfinite().all()):
        raise ValueError("the result is not finite")
    return step, output


def _time(step: Step, timing: Timing, device: torch.device) -> None:
    """One step, by the GPU's own clock, waiting for launches included."""
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        timing.ms.append(1000 * (time.perf_counter() - start))
        timing.host_ms.append(timing.ms[-1])
        return
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    start = time.perf_counter()
    step()
    returned = time.perf_counter()
    end.record()
    torch.cuda.synchronize(device)
    timing.ms.append(begin.elapsed_time(end))
    timing.host_ms.append(1000 * (returned - start))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    """Give back what a failed way held, once its exception is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reason(error: BaseException) -> str:
    """Type and first line: some of torch's messages run over pages."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
