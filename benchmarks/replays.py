"""Many replays: a grid of policies and replicas, and how many replicas a load needs.

Each replay is a task of its own for a pool of processes; the result does not depend on how many
there are. Imports no torch, which every process would have to load.
"""

from __future__ import annotations

import multiprocessing
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import cache
from typing import NamedTuple, get_args

import numpy as np

from benchmarks.simulation import EngineModel, Request, replay
from pipelines.engine.scheduling.policies import Policy

POLICIES: tuple[Policy, ...] = get_args(Policy)
REPLICAS = (1, 2, 4, 8, 16, 32, 64)
WANTED_MET = 0.95

Draw = Callable[[float, int], Sequence[Request]]
"""(load, streams) -> requests: as many streams, each of that load; see `offered.py`."""


class Summary(NamedTuple):
    """Requests of one run: the share of deadlines met, and latencies in seconds."""

    met: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


def summarise(latencies_s: Sequence[float], deadlines_s: Sequence[float]) -> Summary:
    """Of at least one request; both are seconds from its arrival."""
    latencies = np.asarray(latencies_s)
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, (50, 95, 99)))
    met = float((latencies <= np.asarray(deadlines_s)).mean())
    return Summary(met, float(latencies.mean()), p50, p95, p99)


class Run(NamedTuple):
    """A replay: its summary, and how busy the replicas were."""

    summary: Summary
    utilisation: float
    requests: int


def run(
    requests: Sequence[Request], model: EngineModel, policy: Policy, replicas: int, seed: int
) -> Run:
    """Replay and summarise."""
    result = replay(requests, model, policy=policy, replicas=replicas, seed=seed)
    deadlines = [request.deadline_s for request in requests]
    return Run(summarise(result.latencies_s, deadlines), result.utilisation, len(requests))


def processes() -> ProcessPoolExecutor:
    """One for each core. They are spawned: a forked torch may hang."""
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def grid(
    pool: Executor, draw: Draw, model: EngineModel, *, load: float, seed: int
) -> dict[tuple[Policy, int], Run]:
    """Each policy on each number of replicas, all at `load` per replica."""
    futures: dict[tuple[Policy, int], Future[Run]] = {}
    for replicas in reversed(REPLICAS):  # the longest first
        requests = draw(load, replicas)
        for policy in POLICIES:
            futures[policy, replicas] = pool.submit(run, requests, model, policy, replicas, seed)
    return {(p, n): futures[p, n].result() for p in POLICIES for n in REPLICAS}


def replicas_needed(
    pool: Executor, draw: Draw, model: EngineModel, *, offered: Sequence[int], seed: int
) -> Mapping[Policy, dict[int, int | None]]:
    """The fewest replicas that meet `WANTED_MET` of the deadlines of `offered` streams of load 1.0.

    None where 64 are not enough. Searched upwards from the load itself, with fewer of which the
    queue only grows, taking it that more replicas never meet less.
    """
    futures = {
        (policy, load): pool.submit(_fewest, draw(1.0, load), model, policy, load, seed)
        for load in sorted(offered, reverse=True)
        for policy in POLICIES
    }
    return {
        policy: {load: futures[policy, load].result() for load in offered} for policy in POLICIES
    }


def _fewest(
    requests: Sequence[Request], model: EngineModel, policy: Policy, least: int, seed: int
) -> int | None:
    choices = range(least, REPLICAS[-1] + 1)

    @cache
    def is_enough(replicas: int) -> bool:
        return run(requests, model, policy, replicas, seed).summary.met >= WANTED_MET

    # Far too many replicas cost little time to simulate, far too few a lot: try doubling first.
    width = 1
    while width < len(choices) and not is_enough(choices[width - 1]):
        width *= 2
    tried = choices[width // 2 : width]
    found = bisect_left(tried, True, key=is_enough)
    return tried[found] if found < len(tried) else None
