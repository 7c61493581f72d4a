"""What serving costs: request to image over HTTP, against the same chain in one process.

    python -m benchmarks.overhead [--runs 30]

Starts the application with `serve run`, loads the same chain here, and alternates: served, local,
served, local, with a new prompt each time (no cache helps either side), one thread per stage on
both sides, and the same work: encode, denoise, decode, safety classifier, PNG, base64. The served
side says in `server-timing` how long each stage ran and waited; the rest is handles and HTTP.
"""

from __future__ import annotations

import argparse
import base64
import re
import time
from collections import defaultdict
from collections.abc import Sequence
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

RUN_PHASES = ("encode", "denoise", "decode", "safety", "finish", "store")
WAIT_PHASES = ("encode_wait", "denoise_wait", "decode_wait", "safety_wait")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    quiet()
    torch.set_num_threads(1)
    spec = next(iter(models().values()))
    local = Local(spec)
    server = ChildServer(choose_port(8000), log=Path("output/overhead.log"))
    server.start()
    try:
        with SluiceClient(server.url) as client:
            wait_until_ready(server, client)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            served_s, local_s, phases = alternate(http, local, runs)
    finally:
        server.stop()
    report(spec, served_s, local_s, phases)


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


def alternate(
    http: httpx.Client, local: Local, runs: int
) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Seconds served, seconds local, and the served side's seconds by phase."""
    served_s: list[float] = []
    local_s: list[float] = []
    phases: defaultdict[str, list[float]] = defaultdict(list)
    for run in range(-WARM_UP, runs):
        colour, shape = COLOURS[run % 6], SHAPES[run // 6 % 6]
        prompt = f"a {colour} {shape} number {run + WARM_UP}"
        began = time.perf_counter()
        timing = draw_served(http, prompt, seed=run + WARM_UP)
        middle = time.perf_counter()
        local.draw(prompt, seed=run + WARM_UP)
        ended = time.perf_counter()
        if run < 0:
            continue
        served_s.append(middle - began)
        local_s.append(ended - middle)
        for phase, seconds in timing.items():
            phases[phase].append(seconds)
    return served_s, local_s, phases


def draw_served(http: httpx.Client, prompt: str, *, seed: int) -> dict[str, float]:
    """Draw over HTTP; the server's seconds by phase."""
    body = {"prompt": prompt, "seed": seed, "response_format": "b64_json"}
    answer = http.post("/v1/images/generations", json=body)
    answer.raise_for_status()
    pairs = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
    return {phase: float(milliseconds) / 1000 for phase, milliseconds in pairs}


def report(
    spec: ModelSpec,
    served_s: list[float],
    local_s: list[float],
    phases: dict[str, list[float]],
) -> None:
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
    ]
    print_table(
        f"{spec.name}, {spec.width}x{spec.height}, {spec.num_inference_steps} steps,"
        f" {len(served_s)} alternating runs",
        ["", "median (quartiles), ms"],
        [(name, spread([1000 * value for value in values])) for name, values in rows],
    )
    print(f"served / local: {spread(ratios)}")
    print_json(
        {
            "served_over_local": round(median(ratios), 3),
            "served_ms": round(1000 * median(served_s), 1),
            "local_ms": round(1000 * median(local_s), 1),
            "stages_ms": round(1000 * median(running), 1),
            "waits_ms": round(1000 * median(waiting), 1),
            "handles_ms": round(1000 * median(hops), 1),
            "http_ms": round(1000 * median(http), 1),
            "n": len(served_s),
        }
    )


def summed(phases: dict[str, list[float]], names: Sequence[str]) -> list[float]:
    """Per run, the seconds of all these phases together."""
    columns = [phases[name] for name in names if name in phases]
    return [sum(values) for values in zip(*columns, strict=True)]


if __name__ == "__main__":
    main()
