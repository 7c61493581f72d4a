"""Time several ways to take the same step, in turn, so that a changing machine changes all alike.

A way that fails is recorded with its reason and the others go on.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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

_WARMUPS = 3
_FEWEST_ROUNDS = 3
_GIB = 2**30


@dataclass(slots=True, kw_only=True)
class Timing:
    """One way's milliseconds, or the reason why it has none.

    `first_s` is its first call, with compilation; `peak_gib` the most memory that was allocated on
    the GPU; `difference` the largest from the first way that ran, relative to the largest value
    there.
    """

    ms: list[float] = field(default_factory=list)
    first_s: float | None = None
    peak_gib: float | None = None
    difference: float | None = None
    failure: str | None = None


@torch.inference_mode()
def alternate(
    ways: Mapping[str, Callable[[], Step]], *, device: torch.device, rounds: int, deadline: float
) -> dict[str, Timing]:
    """Make and warm each way up, then time them in turn, `rounds` times.

    After `deadline` (by `time.monotonic`) no way is begun, and rounds end once there are a few.
    """
    timings = {name: Timing() for name in ways}
    steps: dict[str, Step] = {}
    reference: torch.Tensor | None = None
    for name, make in ways.items():
        timing = timings[name]
        if time.monotonic() > deadline:
            timing.failure = "no time left"
            continue
        try:
            steps[name], output = _warm_up(make, timing, device)
            reference = output if reference is None else reference
            timing.difference = float((output - reference).abs().max() / reference.abs().max())
        except FAILURES as error:
            timing.failure = reason(error)
        if timing.failure:
            steps.pop(name, None)
            _free(device)
    for round_number in range(rounds):
        if time.monotonic() > deadline and round_number >= _FEWEST_ROUNDS:
            break
        for name in list(steps):
            try:
                timings[name].ms.append(_time(steps[name], device))
            except FAILURES as error:
                timings[name].failure = reason(error)
            if timings[name].failure:
                del steps[name]
                _free(device)
    return timings


def _warm_up(
    make: Callable[[], Step], timing: Timing, device: torch.device
) -> tuple[Step, torch.Tensor]:
    """The step, and its output in float32. Raises ValueError when that is not finite."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = make()
    start = time.perf_counter()
    output = step().float()
    _synchronize(device)
    timing.first_s = time.perf_counter() - start
    for _ in range(_WARMUPS - 1):
        step()
    _synchronize(device)
    if device.type == "cuda":
        timing.peak_gib = torch.cuda.max_memory_allocated(device) / _GIB
    if not bool(output.isfinite().all()):
        raise ValueError("the result is not finite")
    return step, output


def _time(step: Step, device: torch.device) -> float:
    """Milliseconds of one step: by the GPU's own clock, waiting for launches included."""
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)


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
