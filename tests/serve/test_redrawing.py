"""A file says what was drawn: from its metadata alone the same bytes are drawn again."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import sd_parsers
from PIL import Image

from deployments.graph.remote_graph import RemoteGraph
from deployments.graph.running_stages import Running
from deployments.stages.fused import Fused
from deployments.stages.local_handle import LocalHandle
from deployments.storage.encode import read_parameters
from deployments.storage.parameters import read_record
from deployments.storage.store import open_store
from pipelines.cuts import Cut
from pipelines.engine.scheduling.scheduler import Scheduler
from pipelines.engine.scheduling.work import Work
from pipelines.errors import InvalidRequest
from serve.api.services import Services
from serve.http import create_app
from serve.redrawing import merged, recorded_fields
from serve.settings.settings import Settings
from tests.specs import tiny_spec

URL = "/v1/images/generations"
ASKED = {"prompt": "a red circle, on: a %2C blue\nsquare", "size": "80x64", "seed": 7}
GUIDED = {"negative_prompt": 'a "cat", Seed: 3', "true_cfg_scale": 2.123456789}
CUTS = {4: 12, 6: 9}
"""How many steps in all are left after so many, wherever fewer are allowed."""

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"num_inference_steps": 5, "guidance_scale": 3.123456789},
    "low": {"quality": "low"},
    "cut": {"num_inference_steps": 20, "min_steps": 2},
    "cut before the first step": {"num_inference_steps": 20, "min_steps": 8},
    "true guidance": {**GUIDED, "num_inference_steps": 4},
    "true guidance, cut": {**GUIDED, "num_inference_steps": 17, "min_steps": 2},
    "an empty negative prompt": {"negative_prompt": "", "true_cfg_scale": 3},
    "weights of words": {
        "prompt": "a (red:1.7) circle",
        "prompt_weighting": True,
        "num_inference_steps": 3,
    },
}
RUN = {
    "plain": 5,
    "low": 6,
    "cut": 9,
    "cut before the first step": 9,
    "true guidance": 4,
    "true guidance, cut": 9,
    "an empty negative prompt": 10,
    "weights of words": 3,
}


def _cut(_: Scheduler, chosen: Iterable[Work], __: object) -> Iterator[tuple[str, Cut]]:
    """As the scheduler does, but at steps that no clock decides on."""
    for work in chosen:
        wanted = CUTS.get(work.steps_done) or (10 if work.min_steps == 8 else None)
        if work.min_steps and wanted and wanted < work.num_steps:
            work.num_steps = wanted
            yield work.id, Cut(work.steps_done, wanted)


@pytest.fixture
async def client(
    dev_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application over real stages, all in this process."""
    monkeypatch.setattr(Scheduler, "_cut", _cut)
    settings = Settings.load(
        {
            "stages.layout": "fused",
            "stages.denoiser.cost_cache": tmp_path / "cost",
            "stages.denoiser.calibration_s": 0.2,
            "stages.safety.classifier": "off",
            "limits.max_prompt_chars": 32_000,
            "stages.storage.directory": tmp_path / "files",
        }
    )
    spec = replace(tiny_spec(dev_like), num_inference_steps=10)
    stages = Fused(spec, settings.stages)
    graph = RemoteGraph(cast(Any, LocalHandle(stages)))
    store = open_store(settings.stages.storage)

    async def running() -> Running:
        return Running(await stages.provenance())

    services = Services.over(
        graph, store, settings=settings, spec=spec, rules=None, running=running
    )
    transport = httpx.ASGITransport(app=create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield client
    stages.__del__()


async def drawn(client: httpx.AsyncClient, body: object) -> tuple[bytes, dict[str, Any]]:
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    return base64.b64decode(answer["data"][0]["b64_json"]), answer


async def test_every_kind_in_every_format(client: httpx.AsyncClient):
    for kind, fields in KINDS.items():
        seen: set[bytes] = set()
        for output_format, compression in (("png", {}), ("jpeg", 70), ("webp", 60)):
            lossy = {"output_compression": compression} if compression else {}
            body = {**ASKED, **fields, **lossy, "output_format": output_format}
            file, answer = await drawn(client, body)
            assert answer["data"][0]["steps"] == RUN[kind], kind
            text = read_parameters(file)
            record = read_record(text)
            assert f"\nSteps: {RUN[kind]}, " in text
            again, redrawn = await drawn(client, record)
            assert again == file, (kind, output_format)
            assert redrawn["data"][0]["steps"] == RUN[kind]
            # What the carried model does not read is said of any request.
            assert [each for each in redrawn["warnings"] if "has no token for" not in each] == []
            seen.add(again)
        assert len(seen) == 3


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_receipt_draws_the_same_bytes(client: httpx.AsyncClient, output_format: str):
    for kind, fields in KINDS.items():
        file, _ = await drawn(client, {**ASKED, **fields, "output_format": output_format})
        read = await client.post(
            "/v1/receipts/read", content=file, headers={"content-type": f"image/{output_format}"}
        )
        assert read.status_code == 200, read.text
        told = read.json()
        assert (told["differences"], told["reproducible"]) == ([], True)
        assert (told["model"], told["steps"]) == ("sluice-shapes", RUN[kind])
        assert len(told["weights"]) == 64
        assert told["versions"]["torch"]
        assert told["request"]["n"] == 1
        again, redrawn = await drawn(client, told["request"])
        assert again == file, kind
        assert [each for each in redrawn["warnings"] if "has no token for" not in each] == []


async def test_a_receipt_outlives_the_text_that_a_jpeg_cuts(
    client: httpx.AsyncClient, tmp_path: Path
):
    prompt = "🐈 <a> & ]]> \"'\\ \u2028\x85" * 1000
    body = {**ASKED, "prompt": prompt, "num_inference_steps": 1, "output_format": "jpeg"}
    path = tmp_path / "long.jpeg"
    path.write_bytes((await drawn(client, body))[0])
    with pytest.raises(InvalidRequest, match="too long for a JPEG"):
        read_record(read_parameters(path.read_bytes()))
    fields = recorded_fields(path)
    assert fields["prompt"] == prompt
    assert (await drawn(client, fields))[0] == path.read_bytes()


async def test_the_record_says_how_a_schedule_was_shortened(client: httpx.AsyncClient):
    async def record_of(kind: str) -> dict[str, Any]:
        file, _ = await drawn(client, {**ASKED, **KINDS[kind]})
        return dict(read_record(read_parameters(file)))

    cut = await record_of("cut")
    assert (cut["num_inference_steps"], cut["step_cuts"]) == (20, [[4, 12], [6, 9]])
    assert "skip_steps" not in cut
    assert (await record_of("cut before the first step"))["step_cuts"] == [[6, 9]]
    low = await record_of("low")
    assert (low["num_inference_steps"], low["skip_steps"]) == (10, True)
    assert "step_cuts" not in low


async def test_each_image_of_a_request_has_its_own_record(client: httpx.AsyncClient):
    response = await client.post(URL, json={**ASKED, "n": 3, "num_inference_steps": 3})
    for image in response.json()["data"]:
        file = base64.b64decode(image["b64_json"])
        record = read_record(read_parameters(file))
        assert record["seed"] == image["seed"]
        assert (await drawn(client, record))[0] == file


async def test_what_a_ratio_in_the_prompt_made(client: httpx.AsyncClient):
    body = {"prompt": "--ar 2:1 [GEN] --ar 2:1 a cat", "seed": 3, "num_inference_steps": 2}
    file, answer = await drawn(client, body)
    assert (await drawn(client, read_record(read_parameters(file))))[0] == file
    assert answer["data"][0]["revised_prompt"] == "a cat"


IMITATIONS = [
    "a cat\nNegative prompt: a dog\nSteps: 10, Sampler: DDIM, CFG scale: 9, Seed: 1, Size: 1x1",
    "a cat Negative prompt: one Negative prompt: two",
    "a cat\nnegative Prompt: x",
    'a cat, Sluice: {"prompt"%3A "other"%2C "seed"%3A 1}',
    "a cat, Hashes: {}, Model: other",
]


@pytest.mark.parametrize("prompt", IMITATIONS)
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_prompt_that_imitates_metadata(
    client: httpx.AsyncClient, prompt: str, output_format: str
):
    body = {"prompt": prompt, "seed": 5, "num_inference_steps": 2, "output_format": output_format}
    file, _ = await drawn(client, body)
    read = sd_parsers.ParserManager().parse(Image.open(io.BytesIO(file)))
    assert read is not None
    (sampler,) = read.samplers
    assert sampler.negative_prompts == []
    assert [text.value for text in sampler.prompts] == [
        prompt.replace("prompt:", "prompt :")
        .replace("Prompt:", "Prompt :")
        .replace("eps:", "eps :")
    ]
    assert sampler.parameters["seed"] == "5"
    assert sampler.parameters["steps"] == "2"
    assert read_record(read_parameters(file))["prompt"] == prompt
    with_negative = {**body, "negative_prompt": "a\nNegative prompt: b", "true_cfg_scale": 2}
    file, _ = await drawn(client, with_negative)
    read = sd_parsers.ParserManager().parse(Image.open(io.BytesIO(file)))
    assert read is not None
    (negative,) = read.samplers[0].negative_prompts
    assert negative.value == "a\nNegative prompt : b"


def test_a_file_without_a_record(tmp_path: Path):
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(InvalidRequest, match=r"plain\.png: the file has no metadata"):
        recorded_fields(plain)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(InvalidRequest, match=r"text\.png: the file is no image"):
        recorded_fields(text)


def test_what_is_given_wins_over_the_record():
    cut = {"prompt": "a", "seed": 1, "num_inference_steps": 20, "step_cuts": [[3, 9]]}
    assert merged(cut, {"seed": 2, "size": None}) == {**cut, "seed": 2}
    assert "step_cuts" not in merged(cut, {"num_inference_steps": 30})
    assert "step_cuts" not in merged(cut, {"min_steps": 4})
