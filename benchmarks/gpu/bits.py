"""Does a request have the same bits alone and in a batch? By attention back end, and again in a
child process whose products are kept from choosing by the number of rows.

cuBLAS reads those variables before its first product, so they need a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.alternation import Step
from benchmarks.gpu.bench import BY_OFFSETS, Bench, Case, Figures, Probe
from benchmarks.gpu.ceilings import pinned
from benchmarks.gpu.rows import Row
from benchmarks.random_flux import Request, draw_requests, packed_step, random_transformer
from pipelines.flux1.transformer import PackedFlux

FIXED_WORKSPACES = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}
"""So small that no product is split along its inner dimension."""

GROUP = "bits"
_CHILD_S = 120.0
_ROWS = (1, 2, 3, 5, 17, 100, 777)


def cases(bench: Bench) -> Iterator[Case]:
    """Requests of equal and of mixed sizes, and rows of a bare product."""
    shallow = cache(partial(_Shallow, bench))
    plan = bench.plan
    batches = {"mixed": plan.mixed, "equal": (plan.small,) * max(plan.counts)}
    kernels: dict[str, tuple[str, str | None]] = {
        "sdpa, as torch chooses": ("sdpa", None),
        "sdpa, cuDNN": ("sdpa", "CUDNN_ATTENTION"),
        "sdpa, flash": ("sdpa", "FLASH_ATTENTION"),
        "sdpa, math": ("sdpa", "MATH"),
        **{name: (name, None) for name in BY_OFFSETS},
    }
    for batch, sides in batches.items():
        yield Case(
            name=f"alone = in a batch, {batch}",
            probes=[
                Probe(
                    name,
                    lambda a=attention, k=kernel, s=sides: shallow().compare(a, k, s),
                    needs_cuda=attention in BY_OFFSETS or kernel == "CUDNN_ATTENTION",
                )
                for name, (attention, kernel) in kernels.items()
            ],
        )
    yield Case(
        name="a row of a product = the same row among others",
        probes=[
            Probe(f"{columns} columns, {inner} deep", partial(_rows, bench, columns, inner))
            for columns, inner in _depths(bench)
        ],
    )


class _Shallow:
    """A model of few blocks, as wide as the whole."""

    def __init__(self, bench: Bench) -> None:
        self._shape = bench.plan.shallow
        transformer = random_transformer(self._shape, bench.device, bench.dtype)
        self._flux = cache(lambda attention: PackedFlux(transformer, attention=attention))
        self._requests = cache(lambda sides: draw_requests(self._shape, sides, self._flux("sdpa")))

    @torch.inference_mode()
    def compare(self, attention: str, kernel: str | None, sides: tuple[int, ...]) -> Figures:
        """How many requests differ, and by how much of the largest value."""
        requests: list[Request] = self._requests(sides)
        flux = self._flux(attention)

        def run(some: list[Request]) -> tuple[torch.Tensor, ...]:
            step: Step = pinned(kernel, packed_step(flux, some))
            return step().split([request.shape.image for request in some])

        return _compare(run(requests), [run([request])[0] for request in requests])


def _compare(
    together: tuple[torch.Tensor, ...] | list[torch.Tensor], alone: list[torch.Tensor]
) -> Figures:
    gaps = [
        float((a.float() - b.float()).abs().max() / b.float().abs().max())
        for a, b in zip(together, alone, strict=True)
    ]
    differ = sum(not torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    return {"differ": float(differ), "of": float(len(alone)), "largest": max(gaps)}


@torch.inference_mode()
def _rows(bench: Bench, columns: int, inner: int) -> Figures:
    """The first rows of a product, with none and with up to 4,000 rows after them."""
    x, weight, bias = bench.normal(4096, inner), bench.normal(columns, inner), bench.normal(columns)
    product: Callable[[int], torch.Tensor] = lambda n: functional.linear(x[:n], weight, bias)  # noqa: E731
    whole = product(len(x))
    return _compare([whole[:n] for n in _ROWS], [product(n) for n in _ROWS])


def _depths(bench: Bench) -> list[tuple[int, int]]:
    width = bench.plan.shallow.config.get("num_attention_heads", 24)
    width *= bench.plan.shallow.config.get("attention_head_dim", 128)
    return [(7 * width, width), (width, 5 * width)]


def in_child(bench: Bench) -> Iterator[Row]:
    """The same rows out of a process with `FIXED_WORKSPACES`, as far as it came."""
    group = f"{GROUP}, fixed workspaces"
    if bench.device.type != "cuda":
        yield Row(group=group, case="all", way="all", skipped="needs CUDA")
        return
    budget = min(_CHILD_S, bench.clock.left())
    with tempfile.TemporaryDirectory() as folder:
        failure = run_child(Path(folder), budget, FIXED_WORKSPACES)
        for row in read_rows(Path(folder)):
            yield Row(**{**row, "group": group})
    if failure:
        yield Row(group=group, case="all", way="the rest", failure=failure)


def run_child(
    folder: Path, budget_s: float, variables: dict[str, str], *options: str
) -> str | None:
    """Run this group alone in a process with `variables`; why it failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", f"^{GROUP}/", "--child"]
    command += ["--budget-s", f"{budget_s:.0f}", "--out", str(folder), *options]
    try:
        subprocess.run(
            command,
            env={**os.environ, **variables},
            check=True,
            capture_output=True,
            text=True,
            timeout=budget_s + 10,
        )
    except subprocess.TimeoutExpired:
        return f"the child process did not end within {budget_s + 10:.0f} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        return f"the child process ended with {error.returncode}: {last}"[:300]
    return None


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that a child saved."""
    return [row for path in folder.glob("*.json") for row in json.loads(path.read_text())["rows"]]
