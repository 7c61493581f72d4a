"""The scheduler in simulated time: checked against the real engine, then on 1 to 64 replicas.

    python -m benchmarks.simulate [--trace FOLDER] [--live-s 60] [--replay-s 30] [--seed 0] [--save]

1. The cost surface is fitted on half of the measured ticks of the carried model; its error on the
   other half is printed.
2. At two loads the same arrivals go through the real engine in real time and through the simulator.
   What the engine spends beside its ticks is taken from runs of their own before and after, with
   other arrivals; of the compared run, the simulator is told how fast the machine was in each
   second (see `matching.py`). Where a mean latency is off by more than a tenth, nothing else is
   quoted and the exit status is 1.
3. Each policy replays the arrivals on 1 to 64 replicas at equal load per replica, and the replicas
   that keep 95 % of the deadlines are looked for.

What load is: see `offered.py`. The live runs are on one thread and want a machine without other
work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine_model import Calibration, calibrate, measure_points
from benchmarks.exactness import quiet
from benchmarks.matching import TOLERANCE, Conditionings, Match, Matcher, engine_model
from benchmarks.offered import OfferedLoad
from benchmarks.replays import POLICIES, REPLICAS, Run, grid, processes, replicas_needed
from benchmarks.report import device_name, print_json, print_table, save_json
from benchmarks.simulation import EngineModel, Overheads, Request
from benchmarks.trace import Arrival, drawn_trace, read_trace
from pipelines.catalog import ModelSpec, models
from pipelines.contracts import TextPrompt
from pipelines.engine.scheduling.policies import Policy
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage

LIVE_LOADS = (0.7, 1.0)
REPLAY_LOADS = (0.7, 1.0)
OFFERED = (1, 2, 4, 8, 16, 32)
_WARM_UP_SEED, _BEFORE_SEED, _AFTER_SEED = 1_000_001, 1_000_002, 1_000_003
_BESIDE = 0.25
"""Length of the runs before and after a compared one, as a part of it."""


def main() -> None:
    options = parse()
    quiet()
    torch.set_num_threads(1)
    spec = next(iter(models().values()))
    stage = DenoiserStage.load(spec.source)
    calibration = calibrate(measure_points(stage, spec, seed=options.seed))
    print_calibration(calibration)
    matcher = Matcher(stage, spec, calibration, Encoder(spec), options.policy)
    trace = read_trace(options.trace) if options.trace else drawn_trace()
    bare = OfferedLoad(trace, engine_model(calibration.surface, Overheads()), spec)
    matcher.learn(
        bare.arrivals(LIVE_LOADS[0], seconds=_BESIDE * options.live_s, seed=_WARM_UP_SEED)
    )
    offered = OfferedLoad(trace, matcher.model, spec)
    matches = {
        load: match(matcher, offered, load, seconds=options.live_s, seed=options.seed)
        for load in LIVE_LOADS
    }
    print_matches(matches, options.policy)
    live_error = max(item.errors["mean_s"] for item in matches.values())
    values: dict[str, object] = {
        "fit_error": round(calibration.error.median, 4),
        "fit_error_worst": round(calibration.error.worst, 4),
        "live_error": round(live_error, 4),
        "live_policy": options.policy,
        "live": {str(load): match_values(item) for load, item in matches.items()},
    }
    if live_error > TOLERANCE:
        print(f"off by {live_error:.1%}, more than {TOLERANCE:.0%}: nothing is simulated with this")
        print_json(values)
        sys.exit(1)
    values |= simulate(matcher.model, offered, seconds=options.replay_s, seed=options.seed)
    if options.save:
        save_json("simulate", values, device=device_name())
    print_json(values)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", type=Path, help="folder of GenTD26; left out, its distribution")
    parser.add_argument("--live-s", type=float, default=60.0, help="seconds of each live run")
    parser.add_argument("--replay-s", type=float, default=30.0, help="seconds of each replay")
    parser.add_argument("--policy", choices=POLICIES, default="edf", help="of the live runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    return parser.parse_args()


class Encoder:
    """Encodes the prompts of arrivals, each text once."""

    def __init__(self, spec: ModelSpec) -> None:
        self._stage = TextEncoderStage.load(spec.source)
        self._length = spec.max_sequence_length

    def __call__(self, requests: Sequence[Arrival]) -> Conditionings:
        texts = sorted({request.prompt for request in requests})
        prompts = [TextPrompt(prompt=text, max_sequence_length=self._length) for text in texts]
        return dict(zip(texts, self._stage.encode(prompts), strict=True))


def match(
    matcher: Matcher, offered: OfferedLoad, load: float, *, seconds: float, seed: int
) -> Match:
    """The live run at `load`, between two shorter ones with other arrivals."""

    def beside(seed: int) -> list[Arrival]:
        return offered.arrivals(load, seconds=_BESIDE * seconds, seed=seed)

    compared = offered.arrivals(load, seconds=seconds, seed=seed)
    return matcher.match(
        compared,
        offered.view(compared),
        before=beside(_BEFORE_SEED),
        after=beside(_AFTER_SEED),
    )


def simulate(
    model: EngineModel, offered: OfferedLoad, *, seconds: float, seed: int
) -> Mapping[str, object]:
    """Replay on 1 to 64 replicas, print, and give the values for the last line."""

    def draw(load: float, streams: int) -> list[Request]:
        return offered.requests(load, streams=streams, seconds=seconds, seed=seed)

    replays: dict[str, object] = {}
    with processes() as pool:
        for load in REPLAY_LOADS:
            runs = grid(pool, draw, model, load=load, seed=seed)
            print_runs(load, runs)
            replays[str(load)] = {
                policy: {str(count): run_values(runs[policy, count]) for count in REPLICAS}
                for policy in POLICIES
            }
        needed = replicas_needed(pool, draw, model, offered=OFFERED, seed=seed)
    print_needed(needed)
    return {
        "replay": replays,
        "replicas_for_95": {
            policy: {f"{load:g}": count for load, count in counts.items()}
            for policy, counts in needed.items()
        },
    }


def print_calibration(calibration: Calibration) -> None:
    surface, error = calibration.surface, calibration.error
    print(
        f"a tick of the carried model: {1e3 * surface.base:.2f} ms"
        f" + {1e6 * surface.per_token:.1f} us a token + {1e9 * surface.per_square:.1f} ns a square"
        f" + {1e3 * surface.per_segment:.2f} ms an image, at least {1e3 * surface.floor:.2f} ms;"
        f" knee at {1e3 * surface.knee:.1f} ms\n"
        f"fitted on {len(calibration.fitted)} ticks; off by {error.median:.1%} (median) and"
        f" {error.worst:.1%} (worst) on the other {calibration.held_out}"
    )


def print_matches(matches: Mapping[float, Match], policy: Policy) -> None:
    rows = []
    for load, item in matches.items():
        rows += [
            (f"{load:g} live", *summary_cells(item.live), item.live.requests),
            (f"{load:g} simulated", *summary_cells(item.simulated), item.simulated.requests),
            error_row(f"{load:g} error", item.errors),
            (f"{load:g} simulated, steady", *summary_cells(item.steady), item.steady.requests),
            error_row(f"{load:g} error, steady", item.errors_steady),
        ]
    print_table(
        f"Live and simulated, {policy}",
        ["load", *SUMMARY_COLUMNS, "requests"],
        rows,
    )
    overheads = [
        (
            f"{load:g}",
            *(f"{1e3 * seconds:.2f}" for seconds in item.times.overheads),
            f"{item.times.stretch:.3f}",
            " to ".join(f"{value:.2f}" for value in pace_range(item)),
        )
        for load, item in matches.items()
    ]
    print_table(
        "Beside the ticks, ms",
        [
            "load",
            "per tick",
            "per admission",
            "per checkpoint",
            "per image",
            "tick / alone",
            "pace",
        ],
        overheads,
    )


def error_row(name: str, errors: Mapping[str, float]) -> tuple[str, ...]:
    return (
        name,
        f"{errors['met']:.1%} points",
        f"{errors['mean_s']:.1%}",
        "",
        f"{errors['p95_s']:.1%}",
        *("", "", ""),
    )


def pace_range(item: Match) -> tuple[float, float]:
    """The 5th and the 95th percentile of the machine's pace over the run's seconds."""
    low, high = np.percentile(item.pace.factors, (5, 95))
    return float(low), float(high)


def print_runs(load: float, runs: Mapping[tuple[Policy, int], Run]) -> None:
    print_table(
        f"Simulated, load {load:g} per replica",
        ["policy, replicas", *SUMMARY_COLUMNS, "requests"],
        [
            (f"{policy} {count}", *summary_cells(run), run.requests)
            for (policy, count), run in runs.items()
        ],
    )


def print_needed(needed: Mapping[Policy, Mapping[int, int | None]]) -> None:
    print_table(
        "Replicas needed for 95 % of deadlines, by offered load (engine seconds per second)",
        ["policy", *(f"{load:g}" for load in OFFERED)],
        [
            (policy, *(counts[load] or f"> {REPLICAS[-1]}" for load in OFFERED))
            for policy, counts in needed.items()
        ],
    )


SUMMARY_COLUMNS = ("met", "mean s", "p50 s", "p95 s", "p99 s", "busy")


def summary_cells(run: Run) -> tuple[str, ...]:
    met, *seconds = run.summary
    return (f"{met:.1%}", *(f"{value:.2f}" for value in seconds), f"{run.utilisation:.0%}")


def run_values(run: Run) -> dict[str, float]:
    rounded = {name: round(value, 4) for name, value in run.summary._asdict().items()}
    return {**rounded, "utilisation": round(run.utilisation, 4)}


def match_values(item: Match) -> dict[str, object]:
    """For the last line."""
    return {
        "live": run_values(item.live),
        "simulated": run_values(item.simulated),
        "errors": {name: round(value, 4) for name, value in item.errors.items()},
        "errors_steady": {name: round(value, 4) for name, value in item.errors_steady.items()},
        "pace_p5_p95": [round(value, 4) for value in pace_range(item)],
        "overheads_ms": {
            name: round(1e3 * seconds, 4)
            for name, seconds in item.times.overheads._asdict().items()
        },
        "stretch": round(item.times.stretch, 4),
    }


if __name__ == "__main__":
    main()
