"""A file has the same bytes whoever else was drawing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deployments.options.stages import StagesConfig
from deployments.stages.fused import Fused
from pipelines import catalog
from pipelines.contracts import (
    FinishSpec,
    GenerationJob,
    GenerationParams,
    GenerationResult,
    ServiceTerms,
)

FILES = 200
UNDER_WAY = 24
MODEL = catalog.find("sluice-shapes")
SIZES = [(64, 64), (64, 64), (64, 96), (96, 96), (80, 112), (128, 128)]
PROMPTS = ["a red circle", "two blue stars on a white background", "a green heart left of a ring"]


def request(dice: random.Random, number: int) -> GenerationJob:
    """Any request for one file, small enough for a CPU."""
    height, width = dice.choice(SIZES)
    guided = dice.random() < 0.2
    params = GenerationParams(
        prompt=dice.choice(PROMPTS) + " " * dice.randrange(3),
        negative_prompt=dice.choice(["", "a square"]) if guided else None,
        height=height,
        width=width,
        num_inference_steps=dice.randint(1, 6),
        guidance_scale=dice.choice([1.0, 3.5, 4.2]),
        true_cfg_scale=2.5 if guided else 1.0,
        seed=dice.randrange(2**32),
        max_sequence_length=MODEL.max_sequence_length,
        skips_steps=dice.random() < 0.2,
    )
    terms = ServiceTerms(priority=dice.randint(-2, 2))
    finish = FinishSpec(seed=params.seed, output_format=dice.choice(["png", "jpeg", "webp"]))
    return GenerationJob(request_id=f"r{number}", params=params, finish=finish, terms=terms)


@pytest.fixture
def fused(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fused]:
    """All stages in this process, which keep nothing of what they encoded."""
    before = torch.get_num_threads()
    config = StagesConfig.model_validate(
        {
            "layout": "fused",
            "text_encoder": {"cache_entries": 0},
            "denoiser": {
                "cost_cache": tmp_path / "cost",
                "calibration_s": 0.2,
                "num_threads": request.param,
            },
            "safety": {"classifier": "off"},
            "storage": {"directory": tmp_path / "files"},
        }
    )
    stages = Fused(MODEL, config)
    yield stages
    stages.close()
    torch.set_num_threads(before)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fused", [1, 2, 3], indirect=True)
async def test_files_drawn_under_random_load_are_those_drawn_alone(fused: Fused) -> None:
    dice = random.Random(torch.get_num_threads())
    jobs = [request(dice, number) for number in range(FILES)]
    batches: list[int] = []
    places = asyncio.Semaphore(UNDER_WAY)

    async def draw(job: GenerationJob) -> str:
        *_, result = [item async for item in fused.generate(job)]
        assert isinstance(result, GenerationResult)
        return result.images[0].sha256

    async def under_load(job: GenerationJob, pause_s: float) -> str:
        async with places:
            await asyncio.sleep(pause_s)
            batches.append(UNDER_WAY - places._value)
            return await draw(job)

    loaded = await asyncio.gather(*(under_load(job, dice.random() / 20) for job in jobs))
    alone = [await draw(job) for job in jobs]
    assert max(batches) > UNDER_WAY / 2
    differ = [job.params for job, a, b in zip(jobs, loaded, alone, strict=True) if a != b]
    assert differ == []
