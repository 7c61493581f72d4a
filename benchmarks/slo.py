"""Deadlines under open-loop load: `@serve.batch` around `FluxPipeline`, and each of our policies.

    python -m benchmarks.slo [--trace FOLDER] [--loads 0.5 1.0] [--sides edf baseline] [--save]

Arrivals have the shape of a real trace (`trace.py`; sizes are assumed) and are the same for every
side, whatever becomes of the earlier ones. Half of the requests are due after 1.5 times their solo
time plus 1 s, half after 5 times plus 1 s, by the client's clock; an error counts as a miss.

Work is counted in solo seconds: what a request takes on an idle Sluice, measured first, and the
same for all sides. With `--unit baseline`, load 1.0 offers as many of them per second as the
baseline serves when it is saturated with such requests, so that no policy of ours is in the
measure. With `--unit solo` it offers one per second: as much as a server of strictly one request at
a time could do. That leaves cores idle wherever a request alone does not fill the machine.

Everything is written to `--record` as it goes; a run that was cut off goes on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.exactness import quiet
from benchmarks.record import Cell, Record, Summary, summary
from benchmarks.replay import replay, saturated
from benchmarks.report import device_name, print_json, print_table, save_json
from benchmarks.requests import MIXED_SIZES, body, prompts
from benchmarks.servers import add_server_arguments, pin, start_baseline, start_sluice, warm_up
from benchmarks.solo import SoloTimes, measure_solo
from benchmarks.trace import (
    Arrival,
    Kind,
    TraceRow,
    arrivals,
    drawn_trace,
    read_trace,
    rerolled_share,
)
from pipelines.catalog import models
from serve.demo.child_server import ChildServer

BASELINE = "baseline"
POLICIES = ("fifo", "srpt", "edf")
SIDES = (BASELINE, *POLICIES)
LOADS = (0.5, 0.7, 1.0, 1.3)
SEEDS = (1, 2, 3)

_DEFAULT_STEPS = next(iter(models().values())).num_inference_steps
_CAPACITY_SEED = 0


def main() -> None:
    arguments = _arguments()
    quiet()
    pin(arguments.cores)
    record = Record(arguments.record, _settings(arguments))
    trace = drawn_trace() if arguments.trace is None else read_trace(arguments.trace)
    solo = record.solo or _measure_solo(record, arguments)
    capacity = record.capacity or _measure_capacity(record, trace, solo, arguments)
    print(f"load 1.0 is {capacity:.2f} solo seconds per second", flush=True)
    # By seed, so that a machine that changes in half an hour changes for all sides.
    for seed, side in itertools.product(arguments.seeds, arguments.sides):
        cells = [Cell(side, load, seed) for load in arguments.loads]
        missing = [cell for cell in cells if cell not in record.runs]
        if missing:
            _run_side(missing, record, trace, arguments)
    _report(record, arguments)


def cell_arrivals(
    cell: Cell, trace: Sequence[TraceRow], solo: SoloTimes, *, capacity: float, window_s: float
) -> list[Arrival]:
    """The same for each side; `capacity` is load 1.0 in solo seconds per second."""
    return arrivals(
        trace,
        seed=cell.seed,
        load=cell.load * capacity,
        window_s=window_s,
        solo=solo,
        default_steps=_DEFAULT_STEPS,
    )


def _run_side(
    cells: Sequence[Cell],
    record: Record,
    trace: Sequence[TraceRow],
    arguments: argparse.Namespace,
) -> None:
    """Start a side's server, run its cells one after the other, stop it."""
    assert record.solo is not None
    assert record.capacity is not None
    server = _start(cells[0].side, arguments)
    try:
        for cell in cells:
            requests = cell_arrivals(
                cell,
                trace,
                record.solo,
                capacity=record.capacity,
                window_s=arguments.window,
            )
            done = asyncio.run(replay(server.url, requests))
            record.add(cell, done)
            result = summary([done])
            print(
                f"{cell.side} load {cell.load:g} seed {cell.seed}: {result.requests} requests,"
                f" {result.met:.0%} met, mean {result.mean_s:.2f} s,"
                f" {rerolled_share(requests):.0%} re-rolls",
                flush=True,
            )
    finally:
        server.stop()


def _start(side: str, arguments: argparse.Namespace) -> ChildServer:
    """A side's server, warmed up with every size, alone and several at once."""
    log = Path(f"output/slo-{side}.log")
    if side == BASELINE:
        server = start_baseline(arguments.baseline, log=log)
    else:
        settings = {"stages.denoiser.policy": side, **arguments.sluice}
        server = start_sluice(settings, log=log)
    try:
        for size, _ in MIXED_SIZES:
            texts = prompts(-2, count=8)
            requests = [body(text, size=size, seed=0, n=2) for text in texts]
            warm_up(server.url, requests[:1], at_once=1)
            warm_up(server.url, requests, at_once=len(requests))
    except BaseException:  # whatever it was, no server is left behind
        server.stop()
        raise
    return server


def _measure_solo(record: Record, arguments: argparse.Namespace) -> SoloTimes:
    """On Sluice, with the default policy: a request that is alone meets none of it."""
    server = _start("edf", arguments)
    try:
        solo = measure_solo(server.url, default_steps=_DEFAULT_STEPS)
    finally:
        server.stop()
    record.set_solo(solo)
    return solo


def _measure_capacity(
    record: Record, trace: Sequence[TraceRow], solo: SoloTimes, arguments: argparse.Namespace
) -> float:
    """Load 1.0, in solo seconds per second."""
    capacity = 1.0
    if arguments.unit == BASELINE:
        cell = Cell(BASELINE, 1.0, _CAPACITY_SEED)
        requests = cell_arrivals(cell, trace, solo, capacity=10.0, window_s=30.0)
        server = _start(BASELINE, arguments)
        try:
            capacity = asyncio.run(saturated(server.url, requests))
        finally:
            server.stop()
    record.set_capacity(capacity)
    return capacity


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    """What runs must share to be compared; as it comes back from JSON."""
    return {
        "trace": "drawn" if arguments.trace is None else arguments.trace.name,
        "unit": arguments.unit,
        "window_s": arguments.window,
        "cores": len(arguments.cores),
        "baseline": arguments.baseline.model_dump(),
        "sluice": arguments.sluice,
    }


def _report(record: Record, arguments: argparse.Namespace) -> None:
    solo, capacity = record.solo, record.capacity
    assert solo is not None
    assert capacity is not None
    print_table(
        f"Solo seconds: on an idle Sluice, {_DEFAULT_STEPS} steps",
        ("size", *(f"{n} image{'s' * (n > 1)}" for n in (1, 8))),
        [
            (str(size), *(f"{solo(Kind(size, _DEFAULT_STEPS, n)):.3f}" for n in (1, 8)))
            for size, _ in MIXED_SIZES
        ],
    )
    values: dict[str, dict[str, Mapping[str, float]]] = {}
    rows: list[tuple[object, ...]] = []
    loads = sorted({cell.load for cell in record.runs})
    for load, side in itertools.product(loads, SIDES):
        runs = [run for cell, run in record.runs.items() if (cell.side, cell.load) == (side, load)]
        if runs:
            result = summary(runs)
            rows.append(_row(load, side, result, [summary([run]).met for run in runs]))
            rounded = {name: round(value, 4) for name, value in result._asdict().items()}
            values.setdefault(f"{load:.1f}", {})[side] = rounded
    print_table(
        f"{arguments.window:g} s of arrivals per seed, {len(arguments.cores)} cores; seconds",
        _COLUMNS,
        rows,
    )
    what = "what the baseline serves, saturated" if arguments.unit == BASELINE else "one at a time"
    print(f"load 1.0 offers {capacity:.2f} solo seconds per second: {what}")
    print("sizes are assumed: " + ", ".join(f"{size} {share:.0%}" for size, share in MIXED_SIZES))
    if arguments.save:
        print(f"saved {save_json('slo', values, device=device_name())}")
    print_json(values)


_COLUMNS = ("load", "side", "met", "by seed", "mean", "p50", "p95", "p99", "images/s")
_COLUMNS += ("encodes/image", "steps", "failed")


def _row(load: float, side: str, result: Summary, met: Sequence[float]) -> tuple[object, ...]:
    seconds = (result.mean_s, result.p50_s, result.p95_s, result.p99_s, result.images_per_s)
    return (
        f"{load:.1f}",
        side,
        f"{result.met:.0%}",
        " ".join(f"{100 * share:.0f}" for share in met),
        *(f"{value:.2f}" for value in seconds),
        f"{result.encodes_per_image:.2f}",
        result.steps_run,
        result.failed,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--trace",
        type=Path,
        help="a folder with a *.csv.gz of GenTD26; without it, arrivals are drawn like it",
    )
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--unit", choices=(BASELINE, "solo"), default=BASELINE, help="of the load")
    parser.add_argument("--window", type=float, default=25.0, help="seconds of arrivals of a run")
    parser.add_argument(
        "--record",
        type=Path,
        default=Path("output/slo.json"),
        help="arrivals and latencies of all runs; those that it holds are not run again",
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    add_server_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
