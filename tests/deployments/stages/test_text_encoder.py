from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deployments.options.stages import TextEncoderOptions
from deployments.stages.text_encoder import TextEncoder
from deployments.wire.tensors import unpack_conditioning
from pipelines.contracts import Conditioning, TextPrompt
from pipelines.errors import CheckpointError, StageFailed
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.stages.text_encoder import TextEncoderStage
from tests.specs import tiny_spec


def _prompt(text: str, length: int = 16) -> TextPrompt:
    return TextPrompt(prompt=text, max_sequence_length=length)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The batches that reach the stage."""
    batches: list[list[str]] = []
    encode = TextEncoderStage.encode

    def counting(self: TextEncoderStage, prompts: Sequence[TextPrompt]) -> list[Conditioning]:
        batches.append([prompt.prompt for prompt in prompts])
        return encode(self, prompts)

    monkeypatch.setattr(TextEncoderStage, "encode", counting)
    return batches


async def test_it_encodes_as_the_stage(dev_like: Path) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions())
    packed = await encoder.encode(_prompt("a red circle"))
    (expected,) = TextEncoderStage.load(str(dev_like)).encode([_prompt("a red circle")])
    arrived = unpack_conditioning(packed)
    assert all(map(torch.equal, PromptTensors.of(arrived), PromptTensors.of(expected)))
    assert packed.timings["encode"] > 0
    assert packed.timings["encode_wait"] >= 0
    assert packed.num_tokens == expected.num_tokens
    assert await encoder.ready()
    encoder.check_health()


async def test_equal_prompts_are_encoded_once(dev_like: Path, calls: list[list[str]]) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions())
    first, second = await asyncio.gather(*(encoder.encode(_prompt("a cat")) for _ in range(2)))
    third = await encoder.encode(_prompt("a cat"))
    assert calls == [["a cat"]]
    assert first.tensors is second.tensors is third.tensors
    assert third.timings == {"encode_wait": 0.0, "encode": 0.0}


async def test_the_length_is_part_of_the_prompt(dev_like: Path, calls: list[list[str]]) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions())
    short, long = await asyncio.gather(
        encoder.encode(_prompt("a cat", 8)), encoder.encode(_prompt("a cat", 16))
    )
    assert short.groups == (("text", 8),)
    assert long.groups == (("text", 16),)
    assert len(calls) == 2


async def test_weights_are_part_of_the_prompt(dev_like: Path, calls: list[list[str]]) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions())
    off = _prompt("a (cat:1.5)")
    on = replace(off, is_weighted=True)
    plain = await encoder.encode(off)
    weighted = await encoder.encode(on)
    assert calls == [["a (cat:1.5)"]] * 2
    for prompt, first in ((off, plain), (on, weighted)):
        assert (await encoder.encode(prompt)).tensors is first.tensors
    assert len(calls) == 2
    (expected,) = TextEncoderStage.load(str(dev_like)).encode([on])
    assert all(
        map(
            torch.equal,
            PromptTensors.of(unpack_conditioning(weighted)),
            PromptTensors.of(expected),
        )
    )


async def test_what_waits_is_encoded_together(dev_like: Path, calls: list[list[str]]) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions(max_batch_size=3))
    await asyncio.gather(*(encoder.encode(_prompt(text)) for text in ("a", "b", "c", "d", "e")))
    assert [len(batch) for batch in calls] == [3, 2]


async def test_the_oldest_conditioning_leaves_the_cache(
    dev_like: Path, calls: list[list[str]]
) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions(cache_entries=2))
    for text in ("a", "b", "a", "c", "a", "b"):
        await encoder.encode(_prompt(text))
    assert calls == [["a"], ["b"], ["c"], ["b"]]


async def test_one_caller_leaving_does_not_disturb_the_other(
    dev_like: Path, calls: list[list[str]]
) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions(max_batch_size=1))
    busy = asyncio.create_task(encoder.encode(_prompt("first")))
    leaving = asyncio.create_task(encoder.encode(_prompt("shared")))
    staying = asyncio.create_task(encoder.encode(_prompt("shared")))
    alone = asyncio.create_task(encoder.encode(_prompt("unwanted")))
    await asyncio.sleep(0)
    leaving.cancel()
    alone.cancel()
    await asyncio.gather(busy, staying)
    assert ["unwanted"] not in calls
    with pytest.raises(asyncio.CancelledError):
        await leaving
    again = await encoder.encode(_prompt("unwanted"))
    assert again.num_tokens > 0


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(
    dev_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder(tiny_spec(dev_like), TextEncoderOptions())

    def fail(self: TextEncoderStage, prompts: Sequence[TextPrompt]) -> list[Conditioning]:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(TextEncoderStage, "encode", fail)
        answers = await asyncio.gather(
            *(encoder.encode(_prompt("a cat")) for _ in range(2)), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [StageFailed, StageFailed]
    assert (await encoder.encode(_prompt("a cat"))).num_tokens > 0


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        TextEncoder(tiny_spec(tmp_path / "nothing"), TextEncoderOptions())
