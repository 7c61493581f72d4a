"""What the hardware gives at best: products, attention, copies, launches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from benchmarks.alternation import Step, Way
from benchmarks.gpu.bench import Bench, Case, Figures, Probe
from pipelines.flux1.family import FAMILY as FLUX1

_LAUNCHES = 1000
_COPIES = 5


def cases(bench: Bench) -> Iterator[Case]:
    """Products of the model's shapes and a square one, attention of one image, memory."""
    for name, rows, inner, columns in products(bench):
        yield Case(
            name=f"product {name}, {rows} x {inner} x {columns}",
            ways=[Way("linear, bfloat16", partial(_linear, bench, rows, inner, columns))],
            flops=lambda n=rows, k=inner, m=columns: 2.0 * n * k * m,
        )
    tokens, heads, width = attention_shape(bench)
    yield Case(
        name=f"attention, {heads} x {tokens} x {width}",
        ways=[
            Way("sdpa, as torch chooses", partial(_sdpa, bench, None)),
            Way("sdpa, cuDNN", partial(_sdpa, bench, "CUDNN_ATTENTION"), needs_cuda=True),
            Way("sdpa, flash", partial(_sdpa, bench, "FLASH_ATTENTION")),
        ],
        flops=lambda: 4.0 * heads * width * tokens**2,
    )
    yield Case(
        name="memory and launches",
        probes=[
            Probe("copy on the device", partial(_copy, bench, "device", "device")),
            Probe("upload, pinned", partial(_copy, bench, "pinned", "device"), needs_cuda=True),
            Probe("upload, pageable", partial(_copy, bench, "host", "device")),
            Probe("download, pinned", partial(_copy, bench, "device", "pinned"), needs_cuda=True),
            Probe("launch of an empty kernel", partial(_launches, bench)),
        ],
    )


def products(bench: Bench) -> list[tuple[str, int, int, int]]:
    """(name, rows, inner, columns) of a square product and of those that a block is made of."""
    config, square = bench.config, bench.plan.ceiling
    width = config.num_attention_heads * config.attention_head_dim
    tokens, _, _ = attention_shape(bench)
    return [
        ("square", square, square, square),
        ("single block in", tokens, width, 7 * width),
        ("single block out", tokens, 5 * width, width),
        ("MLP in", tokens, width, 4 * width),
        ("MLP out", tokens, 4 * width, width),
    ]


def attention_shape(bench: Bench) -> tuple[int, int, int]:
    """Tokens of one image with its text, heads, head width."""
    config, plan = bench.config, bench.plan
    tokens = plan.shape.text_tokens + FLUX1.image_tokens(plan.side, plan.side)
    return tokens, config.num_attention_heads, config.attention_head_dim


def _linear(bench: Bench, rows: int, inner: int, columns: int) -> Step:
    x, weight, bias = bench.normal(rows, inner), bench.normal(columns, inner), bench.normal(columns)
    return lambda: functional.linear(x, weight, bias)


def _sdpa(bench: Bench, kernel: str | None) -> Step:
    tokens, heads, width = attention_shape(bench)
    q, k, v = (bench.normal(1, heads, tokens, width) for _ in range(3))
    return pinned(kernel, lambda: functional.scaled_dot_product_attention(q, k, v))


def pinned(kernel: str | None, step: Step) -> Step:
    """`step` with sdpa held to one of its kernels, by its name in `SDPBackend`."""
    if kernel is None:
        return step
    from torch.nn.attention import SDPBackend, sdpa_kernel

    choice = getattr(SDPBackend, kernel)

    def held() -> torch.Tensor:
        with sdpa_kernel(choice):
            return step()

    return held


def _copy(bench: Bench, source: str, target: str) -> Figures:
    """GB/s of copies; on the device each byte is read and written, and counted once."""

    def place(where: str) -> torch.Tensor:
        device = bench.device if where == "device" else torch.device("cpu")
        memory = torch.zeros(bench.plan.copied, dtype=torch.uint8, device=device)
        return memory.pin_memory() if where == "pinned" else memory

    a, b = place(source), place(target)
    b.copy_(a)
    _wait(bench)
    began = time.perf_counter()
    for _ in range(_COPIES):
        b.copy_(a)
    _wait(bench)
    return {"GB/s": _COPIES * bench.plan.copied / (time.perf_counter() - began) / 1e9}


def _launches(bench: Bench) -> Figures:
    """Microseconds of the host and of host and device together, a launch."""
    x = torch.zeros(1, device=bench.device)
    x.add_(1)
    _wait(bench)
    began = time.perf_counter()
    for _ in range(_LAUNCHES):
        x.add_(1)
    returned = time.perf_counter()
    _wait(bench)
    ended = time.perf_counter()
    return {
        "host us": 1e6 * (returned - began) / _LAUNCHES,
        "us": 1e6 * (ended - began) / _LAUNCHES,
    }


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)
