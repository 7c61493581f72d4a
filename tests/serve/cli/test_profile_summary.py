from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from pipelines.errors import StageFailed
from serve.cli.profile_summary import summarise_profile


def slice_of(
    category: str, name: str, start: float, dur: float, *, tid: int = 1, external: int | None = None
) -> dict[str, Any]:
    args = {} if external is None else {"External id": external}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 7,
        "tid": tid,
        "ts": start,
        "dur": dur,
        "args": args,
    }


def packed(*events: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps({"traceEvents": events}).encode())


TWO_TICKS = (
    {"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "python"}},
    slice_of("user_annotation", "tick 8: 2 images, 640 tokens", 0, 100),
    slice_of("user_annotation", "step", 10, 80),
    slice_of("cpu_op", "aten::linear", 20, 30, external=1),
    slice_of("cpu_op", "aten::addmm", 22, 20, external=2),
    slice_of("cuda_runtime", "cudaLaunchKernel", 30, 5, external=2),
    slice_of("cpu_op", "aten::addmm", 60, 10, external=3),
    slice_of("user_annotation", "plan", 102, 4),
    slice_of("user_annotation", "tick 9: 1 images, 320 tokens", 110, 40),
)
ON_A_GPU = (
    slice_of("gpu_user_annotation", "tick 8: 2 images, 640 tokens", 35, 300, tid=9),
    slice_of("kernel", "sm90_gemm", 40, 200, tid=9, external=2),
    slice_of("kernel", "sm90_gemm", 250, 60, tid=9, external=3),
    slice_of("gpu_memcpy", "Memcpy HtoD", 320, 7, tid=9, external=0),
)


def test_what_an_operator_called_is_not_its_own_time() -> None:
    costs = summarise_profile(packed(*TWO_TICKS)).costs
    assert (costs["aten::linear"].cpu_us, costs["aten::linear"].calls) == (10, 1)
    assert (costs["aten::addmm"].cpu_us, costs["aten::addmm"].calls) == (25, 2)
    assert costs["cudaLaunchKernel"].cpu_us == 5
    assert costs["step, outside of operators"].cpu_us == 40
    assert costs["tick, outside of operators"].cpu_us == 20 + 40


def test_nothing_is_counted_twice_or_lost() -> None:
    costs = summarise_profile(packed(*TWO_TICKS)).costs
    assert sum(cost.cpu_us for cost in costs.values()) == 100 + 4 + 40


def test_ticks_are_those_of_the_engine_and_not_their_shadows_on_the_gpu() -> None:
    assert summarise_profile(packed(*TWO_TICKS, *ON_A_GPU)).tick_us == (100, 40)


def test_kernels_count_for_the_operator_that_launched_them() -> None:
    costs = summarise_profile(packed(*TWO_TICKS, *ON_A_GPU)).costs
    assert costs["aten::addmm"].device_us == 260
    assert costs["aten::linear"].device_us == 0
    assert (costs["Memcpy HtoD"].device_us, costs["Memcpy HtoD"].calls) == (7, 1)
    assert "sm90_gemm" not in costs


def test_the_top_is_by_the_gpu_where_there_is_one() -> None:
    names = [name for name, _ in summarise_profile(packed(*TWO_TICKS)).top(2)]
    assert names == ["tick, outside of operators", "step, outside of operators"]
    names = [name for name, _ in summarise_profile(packed(*TWO_TICKS, *ON_A_GPU)).top(2)]
    assert names == ["aten::addmm", "Memcpy HtoD"]


def test_slices_of_other_threads_are_apart() -> None:
    other = slice_of("cpu_op", "aten::mul", 15, 50, tid=2)
    costs = summarise_profile(packed(*TWO_TICKS, other)).costs
    assert costs["aten::mul"].cpu_us == 50
    assert costs["step, outside of operators"].cpu_us == 40


@pytest.mark.parametrize(
    "trace",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no json"),
        gzip.compress(b"{}"),
        gzip.compress(b"[]"),
        packed({"ph": "X", "name": "no time"}),
    ],
    ids=["empty", "no gzip", "no json", "no events", "a list", "no time"],
)
def test_what_is_no_trace_is_said_to_be_none(trace: bytes) -> None:
    with pytest.raises(StageFailed, match="no trace"):
        summarise_profile(trace)
