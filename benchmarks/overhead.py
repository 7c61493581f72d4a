"""What serving costs: request to image over HTTP, against the same chain in one process.

    python -m benchmarks.overhead [--runs 30] [--against CHECKOUT]

Starts the application with `serve run`, loads the same chain here, and alternates: served, local,
served, local, with a new prompt each time (no cache helps either side), one thread per stage on
both sides, and the same work: encode, denoise, decode, safety classifier, PNG, base64. The served
side says in `server-timing` how long each stage ran and waited; the rest is handles and HTTP.

With `--against`, the application of another checkout of this repository runs beside it and takes
turns with it, each of the two first every other time, so that a changing machine changes both:
`served_over_other` is this one's time over the other's for the same prompt.
"""

from __future__ import annotations

import argparse
import base64
import re
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import torch

from benchmarks.exactness import quiet
from benchmarks.report import print_json, print_table, spread
from deployments.storage.encode import encode_image
from pipelines.catalog import ModelSpec, models
from pipelines.contracts import GenerationParams
from pipelines.local import LocalChain
from pipelines.stages.safety.safety import load_image_classifier
from serve.cli.client import SluiceClient
from serve.demo.child_server import ChildServer, choose_port

COLOURS = ["red", "green", "blue", "yellow", "black", "white"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "diamond"]
WARM_UP = 3
READY_TIMEOUT_S = 300.0
_LOG = Path("output/overhead.log")

RUN_PHASES = ("encode", "denoise", "decode", "safety", "finish", "store")
WAIT_PHASES = ("encode_wait", "denoise_wait", "decode_wait", "safety_wait")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument(
        "--against",
        type=checkout,
        metavar="CHECKOUT",
        help="a folder with another commit of this repository, to take turns with",
    )
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    spec = next(iter(models().values()))
    local = Local(spec)
    with ExitStack() as stack:
        served = stack.enter_context(serving(ChildServer(choose_port(8000), log=_LOG)))
        other = None
        if options.against is not None:
            log = _LOG.with_stem(f"{_LOG.stem}-against")
            server = ChildServer(choose_port(8100), log=log, checkout=options.against)
            other = stack.enter_context(serving(server))
        times = alternate(served, local, options.runs, other)
    report(spec, times)


def checkout(text: str) -> Path:
    """The folder that `text` names. Raises ArgumentTypeError for one without the application."""
    folder = Path(text).resolve()
    if not (folder / "serve" / "app.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of this repository")
    return folder


@contextmanager
def serving(server: ChildServer) -> Generator[httpx.Client]:
    """A client of `server`, which is started, is ready, and is stopped at the end."""
    server.start()
    try:
        with SluiceClient(server.url) as client:
            wait_until_ready(server, client)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            yield http
    finally:
        server.stop()


class Local:
    """The chain in this process, from prompt to base64 text."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        classifier = load_image_classifier("open_nsfw", threshold=0.8, threads=1)
        self._chain = LocalChain.load(spec, classifier=classifier)

    def draw(self, prompt: str, seed: int) -> str:
        """Base64 of the PNG."""
        spec = self._spec
        params = GenerationParams(
            prompt=prompt,
            height=spec.height,
            width=spec.width,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            seed=seed,
            max_sequence_length=spec.max_sequence_length,
        )
        (image,) = self._chain.generate(params)
        data = encode_image(
            image.pixels, output_format="png", output_compression=95, parameters=prompt
        )
        return base64.b64encode(data).decode()


def wait_until_ready(server: ChildServer, client: SluiceClient) -> None:
    """Raises TimeoutError, or ServerDied when the server cannot come up."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not all((client.readiness() or {"server": False}).values()):
        server.check_starting()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server is not ready after {READY_TIMEOUT_S:g} s")
        time.sleep(1.0)


@dataclass(slots=True, kw_only=True)
class Times:
    """Seconds of each run: whole requests served here and by the `other` checkout, the `local`
    chain, and the served side's by phase."""

    served: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    local: list[float] = field(default_factory=list)
    phases: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def alternate(
    served: httpx.Client, local: Local, runs: int, other: httpx.Client | None = None
) -> Times:
    """`runs` of each, after a few that do not count."""
    times = Times()
    for run in range(-WARM_UP, runs):
        colour, shape = COLOURS[run % 6], SHAPES[run // 6 % 6]
        prompt, seed = f"a {colour} {shape} number {run + WARM_UP}", run + WARM_UP

        def draw_here(prompt: str = prompt, seed: int = seed, counts: bool = run >= 0) -> None:
            timing = draw_served(served, prompt, seed=seed)
            for phase, seconds in timing.items() if counts else ():
                times.phases[phase].append(seconds)

        turns: list[tuple[list[float], Callable[[], object]]] = [(times.served, draw_here)]
        if other is not None:
            turns.append((times.other, partial(draw_served, other, prompt, seed=seed)))
        if run % 2:
            turns.reverse()
        turns.append((times.local, partial(local.draw, prompt, seed)))
        for seconds, draw in turns:
            began = time.perf_counter()
            draw()
            if run >= 0:
                seconds.append(time.perf_counter() - began)
    return times


def draw_served(http: httpx.Client, prompt: str, *, seed: int) -> dict[str, float]:
    """Draw over HTTP; the server's seconds by phase."""
    body = {"prompt": prompt, "seed": seed, "response_format": "b64_json"}
    answer = http.post("/v1/images/generations", json=body)
    answer.raise_for_status()
    pairs = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
    return {phase: float(milliseconds) / 1000 for phase, milliseconds in pairs}


def report(spec: ModelSpec, times: Times) -> None:
    phases, served_s, local_s = times.phases, times.served, times.local
    ratios = [served / local for served, local in zip(served_s, local_s, strict=True)]
    running, waiting = summed(phases, RUN_PHASES), summed(phases, WAIT_PHASES)
    graph = phases["total"]
    hops = [t - r - w for t, r, w in zip(graph, running, waiting, strict=True)]
    http = [s - t for s, t in zip(served_s, graph, strict=True)]
    rows = [
        ("local, whole chain", local_s),
        ("served, whole request", served_s),
        *((f"  {phase} runs", phases[phase]) for phase in RUN_PHASES if phase in phases),
        ("  waits before stages", waiting),
        ("  between stages (handles, by reference)", hops),
        ("  HTTP, ingress, base64 over the wire", http),
        *([("served by the other checkout", times.other)] if times.other else ()),
    ]
    print_table(
        f"{spec.name}, {spec.width}x{spec.height}, {spec.num_inference_steps} steps,"
        f" {len(served_s)} alternating runs",
        ["", "median (quartiles), ms"],
        [(name, spread([1000 * value for value in values])) for name, values in rows],
    )
    print(f"served / local: {spread(ratios)}")
    values = {
        "served_over_local": round(median(ratios), 3),
        "served_ms": round(1000 * median(served_s), 1),
        "local_ms": round(1000 * median(local_s), 1),
        "stages_ms": round(1000 * median(running), 1),
        "waits_ms": round(1000 * median(waiting), 1),
        "handles_ms": round(1000 * median(hops), 1),
        "http_ms": round(1000 * median(http), 1),
        "n": len(served_s),
    }
    print_json(values | _against(times))


def _against(times: Times) -> dict[str, float]:
    """What is known of the other checkout; prints the ratio."""
    if not times.other:
        return {}
    ratio = spread([here / there for here, there in zip(times.served, times.other, strict=True)])
    print(f"served / served by the other checkout: {ratio}")
    return {
        "served_over_other": round(ratio.median, 3),
        "served_over_other_low": round(ratio.low, 3),
        "served_over_other_high": round(ratio.high, 3),
        "other_ms": round(1000 * median(times.other), 1),
    }


def summed(phases: dict[str, list[float]], names: Sequence[str]) -> list[float]:
    """Per run, the seconds of all these phases together."""
    columns = [phases[name] for name in names if name in phases]
    return [sum(values) for values in zip(*columns, strict=True)]


if __name__ == "__main__":
    main()
