"""FLUX.1-dev's shape on one GPU: most valuable first, each figure printed and saved when measured.

    python -m benchmarks.gpu --budget-s 420 --out DIR     on a GPU
    python -m benchmarks.gpu --only 'fp8|lora'            some of it
    python -m benchmarks.gpu --list                       what there is
    python -m benchmarks.gpu --tiny                       all of it, a tiny model on the CPU

Random weights (11.9 B, bfloat16), 512 text tokens. Ten groups, in the order of their worth; each
way is timed in turn with the first of its case, five rounds or two seconds, and nothing is made or
compiled before its turn. What cannot be measured (out of memory, a missing package or compiler) is
a row with its reason, and the rest goes on; what needs a GPU is a skipped row on a CPU. The budget
counts from the start of the process: once it is spent nothing more is begun.
"""

from __future__ import annotations

from benchmarks.gpu.clock import Clock  # isort: skip  the clock of last resort starts here

import argparse
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import FULL, SMALL, Bench, peak_flops
from benchmarks.gpu.groups import GROUPS, run
from benchmarks.gpu.rows import Report
from benchmarks.report import device_name, result_path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    clock = Clock(options.budget_s)
    if options.list:
        print("\n".join(f"{group.name:20} {group.about}" for group in GROUPS))
        return
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny runs the same code on the CPU")
    device = torch.device("cpu" if options.tiny else "cuda:0")
    name = "cpu" if options.tiny else torch.cuda.get_device_name()
    out: Path | None = options.out
    path = result_path("gpu", device="tiny" if options.tiny else device_name(), folder=out)
    report = Report(path if out else None, _about(name, device), clock)
    bench = Bench(
        plan=SMALL if options.tiny else FULL, device=device, clock=clock, is_child=options.child
    )
    for group in GROUPS:
        for row in run(group, bench, peak_flops(name), options.only):
            report.add(row)
    if device.type == "cuda" and peak_flops(name) is None:
        print(f"unknown device {name!r}: its peak is not in PEAK_TFLOPS, so no share of it")
    print(json.dumps(report.end()))


def _parser() -> argparse.ArgumentParser:
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=summary)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--budget-s", type=float, default=420.0, help="begin nothing after these")
    parser.add_argument("--out", type=Path, help="folder of gpu-<date>-<device>.json")
    parser.add_argument(
        "--only", type=_pattern, default="", help="a regular expression in `group/case/way`"
    )
    parser.add_argument("--list", action="store_true", help="name the groups and end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def _about(name: str, device: torch.device) -> Mapping[str, Any]:
    """What the figures depend on besides the code."""
    about: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        about["cuda"] = torch.version.cuda
        about["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        about["cudnn"] = torch.backends.cudnn.version()
    return about


if __name__ == "__main__":
    main()
