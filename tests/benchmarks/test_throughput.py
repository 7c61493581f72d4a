"""The arithmetic of rounds; nothing is timed here."""

from __future__ import annotations

import pytest

from benchmarks.baselines.serve_batch import BaselineOptions
from benchmarks.baselines.tune import Score, choose, knobs
from benchmarks.requests import square
from benchmarks.throughput import Block, Round, Side, run_round, values_of


def a_round(diffusers: float, baseline: float, sluice: float) -> Round:
    rates = {"diffusers": diffusers, "serve_batch": baseline, "sluice": sluice}
    return Round(rates, dict.fromkeys(rates, 0.5), 0.0)


def test_ratios_are_taken_by_round():
    rounds = {"64": [a_round(1.0, 2.0, 4.0), a_round(2.0, 2.0, 4.0), a_round(4.0, 1.0, 4.0)]}
    values = values_of(rounds)
    assert values["sluice_over_diffusers"] == {"64": 2.0}
    assert values["sluice_over_serve_batch"] == {"64": 2.0}
    assert values["images_per_s"]["sluice"] == {"64": 4.0}
    assert values["cpu_s_per_image"] == {"serve_batch": {"64": 0.5}, "sluice": {"64": 0.5}}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_sides_take_turns_with_the_same_requests(number: int):
    turns: list[str] = []
    prompts: set[str] = set()
    cpu = {"diffusers": 0.0, "serve_batch": 0.0, "sluice": 0.0}

    def side(name: str) -> Side:
        def draw(requests):
            turns.append(name)
            prompts.add(next(requests)["prompt"])
            cpu[name] += 3.0
            return Block(rate=2.0, images=6)

        return Side(draw, lambda: cpu[name])

    result = run_round({name: side(name) for name in cpu}, [(square(64), 1.0)], number)
    assert turns == [*cpu][number:] + [*cpu][:number]
    assert len(prompts) == 1
    assert result == Round(dict.fromkeys(cpu, 2.0), dict.fromkeys(cpu, 0.5), 0.0)


def test_tuning_prefers_the_soonest_answer_among_equal_rates():
    fast, soon, slow = (BaselineOptions(max_batch_size=size) for size in (16, 8, 1))
    scores = {fast: Score(10.0, 9.0, 0.5), soon: Score(9.9, 9.0, 0.1), slow: Score(5.0, 5.0, 0.05)}
    assert choose(scores) == soon


def test_every_change_that_is_tuned_is_an_option():
    for changes in knobs(2):
        for change in changes:
            BaselineOptions.model_validate(change)
