"""The order in which `benchmarks.overhead` asks, and what it makes of the times."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from benchmarks import overhead
from benchmarks.overhead import WARM_UP, Local, Times, alternate
from pipelines.catalog import models

PHASES = "encode;dur=1.0, denoise;dur=2.0, total;dur=4.0"


class Asked:
    """Who was asked to draw what, in this order."""

    def __init__(self) -> None:
        self.order: list[tuple[str, str, int]] = []

    def client(self, name: str) -> httpx.Client:
        def answer(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            self.order.append((name, body["prompt"], body["seed"]))
            return httpx.Response(200, json={}, headers={"server-timing": PHASES})

        return httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))

    def draw(self, prompt: str, seed: int) -> str:
        self.order.append(("local", prompt, seed))
        return ""


def run(runs: int, *, against: bool) -> tuple[list[tuple[str, str, int]], Times]:
    asked = Asked()
    local: Any = asked
    with asked.client("here") as here, asked.client("other") as other:
        times = alternate(here, cast("Local", local), runs, other if against else None)
    return asked.order, times


def test_served_and_local_take_turns():
    order, times = run(4, against=False)
    assert [name for name, *_ in order] == ["here", "local"] * (WARM_UP + 4)
    assert [len(times.served), len(times.local), len(times.other)] == [4, 4, 0]
    assert times.phases == {"encode": [0.001] * 4, "denoise": [0.002] * 4, "total": [0.004] * 4}


def test_of_two_checkouts_each_is_first_every_other_time():
    order, times = run(4, against=True)
    rounds = [order[at : at + 3] for at in range(0, len(order), 3)]
    assert all(len({(prompt, seed) for _, prompt, seed in each}) == 1 for each in rounds)
    assert len({prompt for _, prompt, _ in order}) == len(rounds), "no cache helps"
    first = [each[0][0] for each in rounds]
    assert set(first) == {"here", "other"}
    assert all(one != other for one, other in pairwise(first))
    assert [len(times.served), len(times.other), len(times.local)] == [4, 4, 4]
    assert len(times.phases["total"]) == 4, "of this checkout alone"


def test_the_ratio_is_of_the_same_rounds(capsys: pytest.CaptureFixture[str]):
    times = Times(served=[1.0, 4.0, 9.0], other=[1.0, 2.0, 3.0], local=[1.0, 1.0, 1.0])
    for phase in ("total", *overhead.RUN_PHASES, *overhead.WAIT_PHASES):
        times.phases[phase] = [1.0] * 3
    overhead.report(next(iter(models().values())), times)
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["served_over_other"] == 2.0
    assert (values["served_over_other_low"], values["served_over_other_high"]) == (1.0, 3.0)
    assert values["other_ms"] == 2000.0


def test_a_folder_that_is_no_checkout(tmp_path: Path):
    with pytest.raises(argparse.ArgumentTypeError, match="is no checkout"):
        overhead.checkout(str(tmp_path))
