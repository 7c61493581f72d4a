"""From zero machines through a burst and back: scaling by work, and by requests as Serve does.

    python -m benchmarks.autoscale [--quick] [--sides work requests] [--seeds 1 2 3] [--save]

A Ray cluster with Ray's autoscaler (`autoscaling/cloud.py`): machines with a GPU, which is only
told of, are started when denoisers ask for one and ended when idle. The product runs on it, with
denoisers that draw the real images at the pace of a slower device (`autoscaling/paced.py`), so that
several fit on this machine's cores. Requests have the shape of a trace (`trace.py`).

`work` is Sluice's own policy, by seconds of work. `requests` is Serve's, with its default target of
two requests in flight for each replica; both have the same bounds and delays, and hear of the
load every second. `requests-N` has a target of N. Deadlines: half of the requests are due after 1.5
times what they take alone and 10 s, half after 30 s; the start of a machine and its replica counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import ray.serve
from ray.serve.schema import ReplicaState

from benchmarks.autoscaling.burst import FULL, QUICK, Client, Phase, draw, offered
from benchmarks.autoscaling.cloud import FakeCloud
from benchmarks.autoscaling.paced import application
from benchmarks.autoscaling.plot import Line
from benchmarks.autoscaling.plot import draw as draw_lines
from benchmarks.autoscaling.timeline import (
    Fate,
    Sample,
    every,
    machine_seconds,
    met,
    replica_seconds,
)
from benchmarks.exactness import quiet
from benchmarks.load import Outcome
from benchmarks.report import device_name, print_json, print_table, save_json
from benchmarks.trace import Arrival, drawn_trace, read_trace

WORK, REQUESTS = "work", "requests"
SERVES_TARGET = 2.0

MAX_REPLICAS = 4
DELAYS = {"upscale_delay_s": 1.0, "downscale_delay_s": 10.0, "downscale_to_zero_delay_s": 10.0}
MACHINE = {"CPU": 1, "GPU": 1}
MACHINE_IDLE_S = 9.0

_APP = "autoscale"
_SAMPLE_S = 0.5
_ZERO_WITHIN_S = 120.0
_TABLE_S = 10.0
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = _arguments()
    quiet()
    phases = QUICK if arguments.quick else FULL
    trace = drawn_trace() if arguments.trace is None else read_trace(arguments.trace)
    runs: dict[str, list[Line]] = {side: [] for side in arguments.sides}
    for seed in arguments.seeds:
        requests = draw(trace, phases, seed=seed)
        for side in arguments.sides:
            line = run(side, requests)
            runs[side].append(line)
            _write(arguments.record, runs)
            _print_line(side, seed, line, phases)
    values = {side: summary(lines) for side, lines in runs.items()}
    _report(values)
    picture = arguments.picture
    if arguments.save:
        picture = _RESULTS / "autoscale.png"
        print(f"saved {save_json('autoscale', values, device=device_name())}")
    draw_lines(
        {side: lines[-1] for side, lines in runs.items()}, lambda at: offered(phases, at), picture
    )
    print(f"saved {picture}")
    print_json(_figures(values))


def run(side: str, requests: Sequence[Arrival]) -> Line:
    """One side from zero to zero, on a cluster of its own.

    Raises TimeoutError when machines are left two minutes after the last answer.
    """
    with (
        FakeCloud(MACHINE, max_nodes=MAX_REPLICAS, idle_s=MACHINE_IDLE_S) as cloud,
        tempfile.TemporaryDirectory() as folder,
    ):
        app = application(
            max_replicas=MAX_REPLICAS, delays=DELAYS, by_requests=_target(side), folder=Path(folder)
        )
        ray.serve.run(app, name=_APP)
        client = Client(requests)
        with Sampler(client, cloud) as sampler:
            outcomes = asyncio.run(client.run(cloud.url))
            sampler.wait_for_zero(_ZERO_WITHIN_S)
    fates = [_fate(*pair) for pair in zip(requests, outcomes, strict=True)]
    return Line(sampler.samples, fates)


class Sampler:
    """Looks at replicas and machines twice a second, in a thread; a context manager."""

    def __init__(self, client: Client, cloud: FakeCloud) -> None:
        self.samples: list[Sample] = []
        self._client = client
        self._cloud = cloud
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def wait_for_zero(self, within_s: float) -> None:
        """Until no replica and no machine is left. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while (last := self.samples[-1]).replicas or last.machines:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {within_s:g} s there are still {last}")
            time.sleep(_SAMPLE_S)

    def _run(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            if self._client.began is None:
                continue
            at_s = time.monotonic() - self._client.began
            states = ray.serve.status().applications[_APP].deployments["Denoiser"].replica_states
            running = states.get(ReplicaState.RUNNING, 0)
            self.samples.append(
                Sample(
                    at_s,
                    self._client.queued_s,
                    running,
                    sum(states.values()) - running,
                    self._cloud.machines(),
                )
            )


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """Of a side's runs: means, and what of each of them."""
    each = [
        {
            "first_image_from_zero_s": line.fates[0].latency_s,
            "met": met(line.fates),
            "replica_seconds": replica_seconds(line.samples),
            "machine_seconds": machine_seconds(line.samples),
            "mean_latency_s": fmean(fate.latency_s for fate in line.fates),
            "most_queued_s": max(sample.queued_s for sample in line.samples),
            "requests": len(line.fates),
            "failed": sum(not fate.is_ok for fate in line.fates),
            "zero_after_s": line.samples[-1].at_s,
        }
        for line in lines
    ]
    means = {name: round(fmean(item[name] for item in each), 3) for name in each[0]}
    return {**means, "runs": [{k: round(v, 3) for k, v in item.items()} for item in each]}


def _write(path: Path, runs: Mapping[str, Sequence[Line]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({side: [line._asdict() for line in lines] for side, lines in runs.items()})
    )


def _fate(request: Arrival, outcome: Outcome) -> Fate:
    is_ok = outcome.status == 200 and outcome.images == request.n
    is_met = is_ok and outcome.latency_s <= request.deadline_s
    return Fate(request.at_s, outcome.latency_s, is_ok, is_met)


def _target(side: str) -> float | None:
    if side == WORK:
        return None
    _, _, number = side.partition("-")
    return float(number) if number else SERVES_TARGET


def _print_line(side: str, seed: int, line: Line, phases: Sequence[Phase]) -> None:
    met_until = {
        sample.at_s: [fate for fate in line.fates if fate.sent_s <= sample.at_s]
        for sample in line.samples
    }
    print_table(
        f"{side}, seed {seed}",
        ("s", "offered", "work not done, s", "running", "replicas", "machines", "met so far"),
        [
            (
                f"{sample.at_s:.0f}",
                f"{offered(phases, sample.at_s):g}",
                f"{sample.queued_s:.0f}",
                sample.running,
                sample.replicas,
                sample.machines,
                f"{met(met_until[sample.at_s]):.0%}",
            )
            for sample in every(line.samples, _TABLE_S)
        ],
    )


_ROWS: Mapping[str, str] = {
    "first_image_from_zero_s": "first image, from zero machines, s",
    "met": "deadlines met",
    "replica_seconds": "replica seconds",
    "machine_seconds": "machine seconds",
    "mean_latency_s": "mean latency, s",
    "most_queued_s": "most work not done, s",
    "failed": "failed requests",
    "zero_after_s": "nothing runs any more after, s",
}


def _report(values: Mapping[str, Mapping[str, Any]]) -> None:
    sides = list(values)
    print_table(
        "means of the runs, in parentheses each",
        ("", *sides),
        [(label, *(_cell(values[side], name) for side in sides)) for name, label in _ROWS.items()],
    )


def _cell(value: Mapping[str, Any], name: str) -> str:
    def text(number: float) -> str:
        return f"{number:.0%}" if name == "met" else f"{number:.1f}"

    return f"{text(value[name])} ({' '.join(text(run[name]) for run in value['runs'])})"


def _figures(values: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    ours, theirs = values.get(WORK, {}), values.get(REQUESTS, {})
    return {
        "first_image_from_zero_s": ours.get("first_image_from_zero_s"),
        "met": ours.get("met"),
        "met_default_policy": theirs.get("met"),
        "replica_seconds": ours.get("replica_seconds"),
        "replica_seconds_default_policy": theirs.get("replica_seconds"),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short burst")
    parser.add_argument("--sides", nargs="+", type=_side, default=[WORK, REQUESTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--trace",
        type=Path,
        help="a folder with a *.csv.gz of GenTD26; without it, arrivals are drawn like it",
    )
    parser.add_argument("--picture", type=Path, default=Path("output/autoscale.png"))
    parser.add_argument(
        "--record", type=Path, default=Path("output/autoscale.json"), help="samples and requests"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    return parser.parse_args()


def _side(text: str) -> str:
    name, _, number = text.partition("-")
    if text != WORK and (name != REQUESTS or (number and not number.isdigit())):
        raise argparse.ArgumentTypeError(f"{text}: is not work, requests, or requests-N")
    return text


if __name__ == "__main__":
    main()
