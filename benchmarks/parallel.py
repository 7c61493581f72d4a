"""A denoiser on several ranks: exactness, bytes moved, and what a step may take on GPUs.

    python -m benchmarks.parallel [--ticks 4] [--source FOLDER] [--save]
        [--tflops 496] [--gbytes 350]

*Moved*: for each (tensor, ulysses) of up to four ranks, a mixed batch on as many processes (gloo,
on the CPU) against one rank in this process, and the bytes that ranks receive in a tick, counted
where they are sent. Orders are those of admissions too, spread over the ticks.

*Steps*: milliseconds of a tick on as many GPUs (NCCL) as there are, with the weights of `--source`;
nothing where there are fewer than two.

*Model*: an estimate on paper, not a measurement, of a FLUX.1-dev step in bfloat16 on 1 to 8 GPUs:
arithmetic at `--tflops` for each, then a rank's bytes at `--gbytes` a second (one direction), then
a fixed time for each collective, nothing overlapped. The default rates are what was published of
one H100 with compiled code (4.2 s for 28 steps at 1024 pixels), and four fifths of NVLink's 450.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from benchmarks.random_flux import step_flops
from benchmarks.report import device_name, print_json, print_table, save_json
from pipelines.catalog import find
from pipelines.contracts import LatentJob, SamplingParams
from pipelines.flux1.family import FAMILY as FLUX1
from pipelines.packing.layout import SegmentShape
from pipelines.parallel.degrees import Degrees
from pipelines.parallel.rank import run_rank
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.team import RankSettings, free_port
from pipelines.parallel.traffic import tick_traffic
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.trajectory import Trajectory

HOST = "127.0.0.1"
GRID = [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (2, 2)]
MODEL_GRID = [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (8, 1), (2, 4), (1, 8)]
SIDES = (1024, 2048)
TEXT_TOKENS = 512
DEV = SimpleNamespace(
    num_layers=19,
    num_single_layers=38,
    num_attention_heads=24,
    attention_head_dim=128,
    in_channels=64,
)
COLLECTIVE_S = 20e-6
"""Before the first byte of a collective on one machine: launch and synchronisation."""


class Moved(NamedTuple):
    """One (tensor, ulysses): the largest difference of latents to one rank's, relative to the
    largest value, and bytes received by all ranks together."""

    max_abs_diff: float
    bytes_per_tick: dict[str, int]
    bytes_per_admission: int


class Estimate(NamedTuple):
    """A step on paper, in milliseconds, and the bytes that a rank receives."""

    compute_ms: float
    transfer_ms: float
    latency_ms: float
    rank_bytes: int

    @property
    def ms(self) -> float:
        return self.compute_ms + self.transfer_ms + self.latency_ms


def _be_rank(settings: RankSettings, rank: int, results: Any) -> None:
    torch.set_num_threads(1)
    results.put(dict(run_rank(settings, rank)))


@contextmanager
def replica(settings: RankSettings) -> Generator[tuple[ParallelStage, Counter[str]]]:
    """A stage on several ranks; the counter has what all received once it is left."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.parallel.rank"])
    results, received = context.Queue(), Counter[str]()
    on_gpu = settings.device == "cuda"
    others = [
        context.Process(
            target=_be_rank,
            args=(
                replace(settings, device=f"cuda:{rank}") if on_gpu else settings,
                rank,
                results,
            ),
        )
        for rank in range(1, settings.degrees.ranks)
    ]
    for process in others:
        process.start()
    stage = ParallelStage.start(replace(settings, device="cuda:0") if on_gpu else settings)
    try:
        yield stage, received
    finally:
        stage.close()
    received.update(stage.team.mesh.received)
    for process in others:
        received.update(results.get(timeout=60))
        process.join()


def admit_mix(stage: DenoiserStage, side: int, ticks: int) -> list[Trajectory]:
    """Three sizes and text lengths, one of them guided by a negative prompt."""
    torch.manual_seed(0)
    text, short, other = (stage.random_conditioning(length) for length in (16, 9, 9))
    one = SamplingParams(
        height=side, width=side, num_inference_steps=ticks, guidance_scale=3.5, seed=1
    )
    guided = replace(one, height=side // 2, true_cfg_scale=2.0, seed=2)
    narrow = replace(one, width=side // 2 + 16, seed=3)
    return [
        stage.admit(LatentJob(work_id="a", group="a", sampling=sampling), positive, negative)
        for sampling, positive, negative in (
            (one, text, None),
            (guided, short, other),
            (narrow, text, None),
        )
    ]


def move(source: str, one: DenoiserStage, degrees: Degrees, *, ticks: int) -> Moved:
    """Step a mix on several processes and on one."""
    settings = RankSettings(source=source, host=HOST, port=free_port(HOST), degrees=degrees)
    with replica(settings) as (stage, received):
        ours, theirs = (admit_mix(at, 128, ticks) for at in (stage, one))
        difference = 0.0
        for _ in range(ticks):
            stage.tick(ours)
            one.tick(theirs)
            difference = max(
                difference,
                *(
                    float((a.latents - b.latents).abs().max() / b.latents.abs().max())
                    for a, b in zip(ours, theirs, strict=True)
                ),
            )
        admissions = len(ours)
        del ours
    admission = received.pop("broadcast", 0) // admissions
    return Moved(difference, {kind: n // ticks for kind, n in received.items()}, admission)


def time_steps(source: str, degrees: Degrees, *, ticks: int) -> float:
    """Milliseconds of a tick of one 1024 pixel image on GPUs, the median."""
    settings = RankSettings(
        source=source,
        host=HOST,
        port=free_port(HOST),
        degrees=degrees,
        device="cuda",
        dtype="bfloat16",
    )
    times: list[float] = []
    with replica(settings) as (stage, _):
        text = stage.random_conditioning(TEXT_TOKENS)
        job = LatentJob(
            work_id="a",
            group="a",
            sampling=SamplingParams(
                height=1024, width=1024, num_inference_steps=ticks + 2, guidance_scale=3.5, seed=1
            ),
        )
        trajectory = stage.admit(job, text, None)
        for _ in range(ticks + 2):
            began = time.perf_counter()
            stage.tick([trajectory])
            times.append(1000 * (time.perf_counter() - began))
        del trajectory
    return median(times[2:])


def estimate(degrees: Degrees, side: int, *, tflops: float, gbytes: float) -> Estimate:
    """One FLUX.1-dev step for one image, on paper."""
    shape = SegmentShape(TEXT_TOKENS, FLUX1.image_tokens(side, side))
    flops = step_flops(DEV, [sum(shape)]) / degrees.ranks
    moved = sum(tick_traffic(DEV, [shape], degrees, itemsize=2).values()) // degrees.ranks
    sums = 4 * DEV.num_layers + DEV.num_single_layers if degrees.tensor > 1 else 0
    exchanges = 2 * (DEV.num_layers + DEV.num_single_layers) if degrees.ulysses > 1 else 0
    collectives = sums + exchanges + (degrees.ranks > 1)
    return Estimate(
        compute_ms=flops / tflops / 1e9,
        transfer_ms=moved / gbytes / 1e6,
        latency_ms=1000 * COLLECTIVE_S * collectives,
        rank_bytes=moved,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ticks", type=int, default=4)
    parser.add_argument("--source", default=find("sluice-shapes").source)
    parser.add_argument("--tflops", type=float, default=496)
    parser.add_argument("--gbytes", type=float, default=350)
    parser.add_argument("--save", action="store_true", help="write the values to results/")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    moved = print_moved(options.source, options.ticks)
    steps = print_steps(options.source, options.ticks)
    paper = print_model(options.tflops, options.gbytes)
    values: dict[str, object] = {
        "max_abs_diff": max(item.max_abs_diff for item in moved.values()),
        "bytes_per_tick": {name: sum(item.bytes_per_tick.values()) for name, item in moved.items()},
        "moved": {name: item._asdict() for name, item in moved.items()},
        "step_ms": steps,
        "paper_ms": paper,
    }
    if options.save:
        save_json("parallel", values, device=device_name())
    print_json(values)


def print_moved(source: str, ticks: int) -> dict[str, Moved]:
    one = DenoiserStage.load(source)
    moved = {
        name_of(degrees): move(source, one, degrees, ticks=ticks)
        for degrees in (Degrees(tensor=t, ulysses=u) for t, u in GRID)
    }
    kinds = ("all_reduce", "all_to_all", "all_gather", "orders")
    print_table(
        "Moved: a mixed batch on CPU processes; KiB received by all ranks in a tick",
        ["tensor x ulysses", "difference", *kinds, "an admission"],
        [
            (
                name,
                f"{item.max_abs_diff:.1e}",
                *(f"{item.bytes_per_tick.get(kind, 0) / 1024:.1f}" for kind in kinds),
                f"{item.bytes_per_admission / 1024:.1f}",
            )
            for name, item in moved.items()
        ],
    )
    return moved


def print_steps(source: str, ticks: int) -> dict[str, float]:
    gpus = torch.cuda.device_count()
    steps = {
        name_of(degrees): time_steps(source, degrees, ticks=ticks)
        for degrees in (Degrees(tensor=t, ulysses=u) for t, u in MODEL_GRID)
        if degrees.ranks <= gpus
    }
    if gpus < 2:
        print(f"Steps: {gpus} GPUs here, and two are the least")
    else:
        print_table(
            "Steps: one image of 1024 pixels, ms",
            ["tensor x ulysses", "median"],
            [(name, f"{ms:.1f}") for name, ms in steps.items()],
        )
    return steps


def print_model(tflops: float, gbytes: float) -> Mapping[str, Mapping[str, float]]:
    paper: dict[str, dict[str, float]] = {}
    for side in SIDES:
        rows: list[tuple[object, ...]] = []
        alone = estimate(Degrees(), side, tflops=tflops, gbytes=gbytes).ms
        for degrees in (Degrees(tensor=t, ulysses=u) for t, u in MODEL_GRID):
            guess = estimate(degrees, side, tflops=tflops, gbytes=gbytes)
            paper.setdefault(str(side), {})[name_of(degrees)] = round(guess.ms, 2)
            rows.append(
                (
                    degrees.ranks,
                    name_of(degrees),
                    *(f"{ms:.1f}" for ms in guess[:3]),
                    f"{guess.rank_bytes / 2**20:.0f}",
                    f"{guess.ms:.1f}",
                    f"{alone / guess.ms:.2f}",
                )
            )
        print_table(
            f"Model (on paper): a FLUX.1-dev step, {side} pixels, bfloat16, {tflops:g} TFLOP/s,"
            f" {gbytes:g} GB/s",
            ["GPUs", "tensor x ulysses", "compute", "transfer", "latency", "MiB a rank", "ms", "x"],
            rows,
        )
    return paper


def name_of(degrees: Degrees) -> str:
    return f"{degrees.tensor} x {degrees.ulysses}"


if __name__ == "__main__":
    main()
