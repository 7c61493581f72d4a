"""Orders survive the line, and shares add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contracts import Cut, LatentJob, SamplingParams, ServiceTerms
from pipelines.errors import ConfigurationError
from pipelines.parallel.commands import Admit, Order, Recut, Stop, Table, Tick, decode, encode
from pipelines.parallel.degrees import Degrees, shares, spans
from pipelines.tasks import PictureRole, PictureUse, Task

JOB = LatentJob(
    work_id="a",
    group="g",
    sampling=SamplingParams(
        height=64,
        width=48,
        num_inference_steps=7,
        guidance_scale=0.1 + 0.2,
        true_cfg_scale=1e-17,
        seed=2**63,
        min_inference_steps=3,
        planned_cuts=(Cut(2, 6), Cut(3, 5)),
        skips_steps=True,
        task=Task.IMAGE_TO_IMAGE,
        strength=0.6,
        pictures=(PictureUse(role=PictureRole.IMAGE, height=64, width=48, scale=0.1 + 0.2),),
    ),
    terms=ServiceTerms(tenant="secret", deadline=1.5),
)
COMMANDS = [
    Admit(
        number=3,
        job=JOB,
        step=2,
        cuts=(Cut(0, 6), Cut(2, 5)),
        text_tokens=16,
        image_tokens=12,
        has_velocity=True,
        tables=(Table(1, 7, True), Table(2, 7, False)),
    ),
    Recut(number=3, cut=Cut(1, 4), tables=(Table(9, 3, True),)),
    Tick(numbers=(1, 5, 2)),
    Tick(numbers=()),
    Stop(),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_an_order_arrives_as_it_was_given(command: Admit | Recut | Tick | Stop) -> None:
    """To the last bit of its numbers; but whose a job is stays at rank 0."""
    frame = encode(Order(command, (4, 7)))
    arrived, dropped = decode(frame)
    assert dropped == (4, 7)
    if isinstance(command, Admit):
        assert b"secret" not in frame
        assert isinstance(arrived, Admit)
        assert arrived.job.terms == ServiceTerms()
        assert type(arrived.job.sampling.pictures[0].role) is PictureRole
        assert type(arrived.job.sampling.task) is Task
        command = replace(command, job=replace(JOB, terms=ServiceTerms(), num_images=1))
    assert arrived == command


@given(count=st.integers(0, 50), parts=st.integers(1, 9))
def test_shares_are_even_and_cover_everything(count: int, parts: int) -> None:
    sizes = shares(count, parts)
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    things = list(range(count))
    assert [thing for span in spans(sizes) for thing in things[span]] == things


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        (Degrees(tensor=5), r"5 ranks cannot share 24 attention heads .* such as 4"),
        (Degrees(tensor=2, ulysses=8), r"16 ranks .* \[1, 2, 3, 4, 6, 8, 12, 24\], such as 12"),
        (Degrees(ulysses=0), "at least 1"),
    ],
)
def test_heads_must_divide(degrees: Degrees, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        degrees.check(24)
    Degrees(tensor=4, ulysses=6).check(24)
