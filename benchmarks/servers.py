"""The two servers that are compared, as child processes on the same cores.

Sluice runs without its safety classifier, as the baseline has none, and refuses no request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.baselines.serve_batch import BaselineOptions
from benchmarks.load import GENERATE, Answer, HttpClient
from serve.cli.client import SluiceClient
from serve.demo.child_server import ChildServer, choose_port

BASELINE = "benchmarks.baselines.serve_batch:build"
READY_TIMEOUT_S = 300.0

SLUICE_SETTINGS: Mapping[str, str] = {
    "stages.safety.classifier": "off",
    "stages.denoiser.max_ongoing_requests": "10000",
    "limits.max_queued_images": "10000",
    "deadlines.unreachable": "best_effort",
}
"""Of every Sluice that is measured: nothing is refused, and the rest are defaults."""


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """`--cores`, `--baseline` and `--sluice`, which the functions below take as they are."""
    parser.add_argument(
        "--cores",
        type=lambda text: [int(core) for core in text.split(",")],
        default=sorted(os.sched_getaffinity(0)),
        help="that everything runs on, such as 0,1; all",
    )
    parser.add_argument(
        "--baseline",
        action=_Baseline,
        default=BaselineOptions(),
        metavar="KEY=VALUE",
        nargs="+",
        help="options of baselines/serve_batch.py",
    )
    parser.add_argument(
        "--sluice",
        action=_Settings,
        default={},
        metavar="KEY=VALUE",
        nargs="+",
        help="settings of Sluice, such as stages.denoiser.num_threads=2",
    )


class _Settings(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            pairs = dict(value.split("=", 1) for value in values)
            setattr(namespace, self.dest, self.read(pairs))
        except ValueError as error:
            parser.error(f"{option_string}: {error}")

    def read(self, pairs: dict[str, str]) -> Any:
        return pairs


class _Baseline(_Settings):
    def read(self, pairs: dict[str, str]) -> BaselineOptions:
        return BaselineOptions.model_validate(pairs)


def pin(cores: Sequence[int]) -> None:
    """Keep this process, and all that it starts from now on, to `cores`."""
    os.sched_setaffinity(0, cores)


def start_baseline(options: BaselineOptions, *, log: Path) -> ChildServer:
    """The `@serve.batch` application, ready. Raises ServerDied, TimeoutError."""
    return _start(ChildServer(_free_port(), log=log, args=options.model_dump(), builder=BASELINE))


def start_sluice(settings: Mapping[str, str], *, log: Path) -> ChildServer:
    """Sluice with `settings` over `SLUICE_SETTINGS`, ready. Raises ServerDied, TimeoutError."""
    return _start(ChildServer(_free_port(), log=log, args={**SLUICE_SETTINGS, **settings}))


def cpu_seconds(server: ChildServer) -> float:
    """What the server's processes have used so far."""
    used = 0.0
    for process in server.processes():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


def warm_up(url: str, bodies: Sequence[Mapping[str, object]], *, at_once: int) -> None:
    """Send all of them, `at_once` together. Raises RuntimeError unless all are answered 200."""
    for answer in asyncio.run(_post_all(url, bodies, at_once)):
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {answer.body[:200]!r}")


def _free_port() -> int:
    """Far from where others look for one: two Ray proxies can share a port, and its requests."""
    return choose_port(random.randrange(20_000, 30_000))


def _start(server: ChildServer) -> ChildServer:
    server.start()
    try:
        with SluiceClient(server.url) as client:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not all((client.readiness() or {"server": False}).values()):
                server.check_starting()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not ready after {READY_TIMEOUT_S:g} s; see {server.log}")
                time.sleep(0.5)
    except BaseException:  # whatever it was, no server is left behind
        server.stop()
        raise
    return server


async def _post_all(url: str, bodies: Sequence[Mapping[str, object]], at_once: int) -> list[Answer]:
    slots = asyncio.Semaphore(at_once)
    async with HttpClient(url) as client:

        async def post(body: Mapping[str, object]) -> Answer:
            async with slots:
                return await client.post(GENERATE, body)

        return await asyncio.gather(*(post(body) for body in bodies))
