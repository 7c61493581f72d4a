"""The GPU benchmark to its end: with a tiny model on the CPU, where no more is installed than it
needs, and the GPU's own paths on the pretended one."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from benchmarks.alternation import Timing
from benchmarks.gpu import bits
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bench import SMALL, Bench, Case, Probe, peak_flops
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.groups import GROUPS, Group, run
from benchmarks.gpu.rows import Report, Row, row_of
from benchmarks.random_flux import DEV, TINY, random_transformer, step_flops, twin_of
from pipelines.flux1.transformer import PackedFlux
from tests.pretend_cuda import pretend_cuda

ALL = re.compile("")
NOT_THERE = ("ray", "fastapi", "starlette", "pydantic", "pydantic_settings", "opentelemetry")
NOT_THERE += ("boto3", "psutil", "rich", "typer", "onnxruntime", "jinja2")
LEAN = """
    import runpy, sys
    from importlib.machinery import PathFinder

    class Lean(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name.partition(".")[0] not in {names}:
                return super().find_spec(name, path, target)

    sys.meta_path = [Lean if finder is PathFinder else finder for finder in sys.meta_path]
    sys.argv = ["gpu", *{arguments}]
    runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.long
def test_every_group_runs_where_little_is_installed(tmp_path: Path) -> None:
    arguments = ["--tiny", "--budget-s", "100000", "--out", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LEAN).format(names=NOT_THERE, arguments=arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    printed = json.loads(ran.stdout.splitlines()[-1])
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"gpu-\d{4}-\d\d-\d\d-tiny\.json", path.name)
    saved = json.loads(path.read_text())
    assert saved["is_complete"] is printed["is_complete"] is True
    assert saved["rows"] == printed["rows"]
    assert (printed["device"], printed["torch"]) == ("cpu", torch.__version__)

    rows: list[dict[str, Any]] = printed["rows"]
    assert [row for row in rows if "failure" in row] == []
    groups = list(dict.fromkeys(row["group"].partition(",")[0] for row in rows))
    assert groups == [group.name for group in GROUPS]
    skipped = {f"{row['group']}/{row['way']}" for row in rows if "skipped" in row}
    assert all(row["skipped"] == "needs CUDA" for row in rows if "skipped" in row)
    assert skipped == {
        "ceilings/sdpa, cuDNN",
        "ceilings/upload, pinned",
        "ceilings/download, pinned",
        "bits/sdpa, cuDNN",
        "bits/varlen",
        "bits/fa3",
        "bits, fixed workspaces/all",
        *(f"{g}/packed, {way}" for g in ("eager", "mixed") for way in ("varlen", "fa3")),
        *(f"{g}/packed, sdpa, cuDNN" for g in ("eager", "mixed")),
        *(f"compiled/packed, compiled, {way}" for way in ("varlen", "fa3")),
        *(f"small/packed, {kind}, CUDA graph" for kind in ("eager", "compiled")),
    }
    assert len([row for row in rows if "ms" in row]) >= 40
    for row in rows:
        if "ms" in row:
            assert 0 < row["low_ms"] <= row["ms"] <= row["high_ms"]
            assert row["host_ms"] > 0
            assert 1 <= row["rounds"] <= 2
            assert "share_of_peak" not in row
        if row["group"] in ("eager", "mixed", "compiled", "small", "diffusers-compiled"):
            assert "skipped" in row or row.get("difference", 0.0) < 0.05
        if row["group"] == "fp8":
            assert row["way"] == "bfloat16" or 0 < row["difference"] < 0.1
        if row["way"] == "grouped products":
            assert row.get("difference", 0.0) < 0.05
    (surface,) = (row["values"] for row in rows if row["way"] == "fit")
    assert surface["ticks"] >= 1
    assert surface["knee ms"] > 0


def bench(**options: Any) -> Bench:
    options = {"device": torch.device("cpu"), "clock": Clock(1e6), **options}
    return Bench(plan=SMALL, **options)


def test_the_paths_of_a_gpu_run_on_the_pretended_one() -> None:
    """Events, pinned memory, streams and stages on cuda. Kernels and graphs it cannot have."""
    only = re.compile(r"^(?!.*compiled)")
    with pretend_cuda():
        there = bench(device=torch.device("cuda", 0), is_child=True)
        rows = [row for group in GROUPS for row in run(group, there, 1e12, only)]
    assert not [row for row in rows if row.skipped]
    failed = {f"{row.group}/{row.way}": row.failure or "" for row in rows if row.failure}
    assert set(failed) == {
        *(f"{group}/sdpa, cuDNN" for group in ("ceilings", "bits")),
        *(f"{group}/packed, sdpa, cuDNN" for group in ("eager", "mixed")),
        *(f"{group}/packed, {way}" for group in ("eager", "mixed") for way in ("varlen", "fa3")),
        *(f"bits/{way}" for way in ("varlen", "fa3")),
        "small/packed, eager, CUDA graph",
    }, failed
    assert "pip install 'sluice[fa3]'" in failed["eager/packed, fa3"]
    by_name = {f"{row.group}/{row.way}": row for row in rows}
    eager = by_name["eager/packed, sdpa, as torch chooses"]
    assert eager.same_bits
    assert eager.peak_gib == 0.0
    assert eager.share_of_peak
    assert by_name["bits/sdpa, as torch chooses"].values["differ"] == 0
    assert by_name["ceilings/upload, pinned"].values["GB/s"]
    assert by_name["ticks/admission"].ms


def test_a_budget_that_is_spent_begins_nothing_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--tiny", "--budget-s", "0", "--out", str(tmp_path), "--only", "eager|bits|ticks"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["group"] for row in printed["rows"]} >= {"eager", "bits", "ticks"}
    assert {row["skipped"] for row in printed["rows"]} <= {"needs CUDA", "no time left"}
    assert not any("ms" in row or "values" in row for row in printed["rows"])


def test_a_part_is_chosen_by_a_pattern_and_measured_against_its_first_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--tiny", "--only", "^lora/.*small/grouped"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["way"] for row in rows] == ["loop over segments", "grouped products"]
    with pytest.raises(SystemExit):
        main(["--tiny", "--only", "["])
    assert "no regular expression" in capsys.readouterr().err
    main(["--list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [group.name for group in GROUPS]


def test_a_group_that_cannot_be_laid_out_is_a_row() -> None:
    def cases(_: Bench) -> Iterator[Case]:
        yield Case(name="good", probes=[Probe("two", lambda: {"value": 2.0})])
        yield Case(name="bad", probes=[Probe("none", lambda: {}["missing"])])
        raise torch.OutOfMemoryError("CUDA out of memory.")

    rows = list(run(Group(name="g", about="", cases=cases), bench(), None, ALL))
    assert [(row.case, row.values, row.failure) for row in rows] == [
        ("good", {"value": 2.0}, None),
        ("bad", {}, "KeyError: 'missing'"),
        ("all", {}, "OutOfMemoryError: CUDA out of memory."),
    ]


def test_a_child_process_has_the_variables_and_its_rows_come_back(tmp_path: Path) -> None:
    failure = bits.run_child(tmp_path, 100_000, {"OMP_NUM_THREADS": "1"}, "--tiny")
    assert failure is None
    rows = [Row(**row) for row in bits.read_rows(tmp_path)]
    assert {row.group for row in rows} == {bits.GROUP}
    assert any(row.values.get("of") == 7 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it does not fail")
def test_a_child_process_that_fails_is_a_row() -> None:
    there = bench(device=torch.device("cuda"))
    (row,) = bits.in_child(there)
    assert (row.group, row.way) == ("bits, fixed workspaces", "the rest")
    assert row.failure is not None
    assert "there is no CUDA device" in row.failure


def test_each_row_is_printed_and_saved_when_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "gpu.json"
    report = Report(path, {"device": "x"}, Clock(60))
    timing = Timing(ms=[4.0, 2.0, 3.0], host_ms=[1.0, 1.0, 1.0], ratio=2.0, same_bits=True)
    report.add(row_of(timing, peak_ms=1.5, group="g", case="c", way="a way"))
    saved = json.loads(path.read_text())
    assert saved["is_complete"] is False
    assert saved["rows"] == [
        {
            "group": "g",
            "case": "c",
            "way": "a way",
            "ms": 3.0,
            "low_ms": 2.5,
            "high_ms": 3.5,
            "host_ms": 1.0,
            "rounds": 3,
            "ratio": 2.0,
            "share_of_peak": 0.5,
            "same_bits": True,
        }
    ]
    report.add(Row(group="g", case="c", way="another", failure="RuntimeError: no"))
    report.end()
    saved = json.loads(path.read_text())
    assert saved["is_complete"] is True
    assert saved["rows"][1] == {
        "group": "g",
        "case": "c",
        "way": "another",
        "failure": "RuntimeError: no",
    }
    assert [file.name for file in path.parent.iterdir()] == ["gpu.json"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("g: c")
    assert re.search(r"^a way +3\.00 +2\.50 to 3\.50 +1\.00 +2\.00 +50 % .*same bits$", lines[3])
    assert re.search(r"^another +RuntimeError: no$", lines[4])


@pytest.mark.parametrize("ms", [[1.0], [1.0, 9.0], [9.0, 1.0, 2.0, 3.0, 4.0]])
def test_quartiles_are_within_what_was_seen(ms: list[float]) -> None:
    row = row_of(Timing(ms=ms, host_ms=ms), peak_ms=None, group="g", case="c", way="w")
    assert row.ms == row.host_ms == statistics.median(ms)
    quartiles = [each for each in (row.low_ms, row.ms, row.high_ms) if each is not None]
    assert len(quartiles) == 3
    assert sorted([min(ms), *quartiles, max(ms)]) == [min(ms), *quartiles, max(ms)]


def test_the_clock_starts_with_the_process() -> None:
    code = (
        "import time; time.sleep(1.0); from benchmarks.gpu.clock import Clock;"
        " clock = Clock(1.0); print(clock.now(), clock.is_late())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(said[0]) >= 1.0
    assert said[1] == "True"


def test_a_step_of_flux_dev_costs_what_its_shape_says() -> None:
    """12.9 GFLOP a token and 0.70 MFLOP a pair of tokens: 74.4 TFLOP for 1024x1024."""
    with torch.device("meta"):
        config = FluxTransformer2DModel(**DEV.config).config
    assert step_flops(config, [4608]) == pytest.approx(74.4e12, rel=0.005)
    assert step_flops(config, [1536]) == pytest.approx(21.5e12, rel=0.005)
    assert step_flops(config, [100, 100]) == 2 * step_flops(config, [100])


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Radeon", None),
    ],
)
def test_the_peak_is_looked_up_by_name(name: str, tflops: float | None) -> None:
    assert peak_flops(name) == (None if tflops is None else 1e12 * tflops)


def test_a_twin_shares_the_memory_of_a_packed_transformer() -> None:
    model = random_transformer(TINY, torch.device("cpu"), torch.bfloat16)
    PackedFlux(model)
    twin = twin_of(model)
    ours = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.data_ptr() == ours[name].data_ptr(), name


@pytest.mark.gpu
def test_on_a_gpu_the_tiny_plan_runs() -> None:
    rows = [
        row
        for group in GROUPS
        for row in run(group, bench(device=torch.device("cuda", 0)), 1e15, ALL)
    ]
    failed = {row.way: row.failure for row in rows if row.failure}
    assert all("fa3" in way for way in failed), failed  # which few have installed
