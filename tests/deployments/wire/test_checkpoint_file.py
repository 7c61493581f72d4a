"""Parts as bytes: what comes back is what was packed, or nothing does."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from deployments.wire import checkpoint_file
from deployments.wire.checkpoint_file import pack_part, unpack_part
from deployments.wire.packed import PackedCheckpoint, PackedTensor, PromptFacts
from deployments.wire.parts import ImageCheckpoint, ImageDrawn, Part
from deployments.wire.tensors import pack_tensor, unpack_tensor
from pipelines.contracts import Cut, FinishedImage
from pipelines.prompts.unread_text import DroppedText, UnreadText
from tests.deployments.receipts import STAGES

DRAWN = ImageDrawn(
    image=1,
    file=FinishedImage(
        b64="aGk=",
        file_id="f" * 32,
        output_format="webp",
        width=64,
        height=32,
        seed=2**63,
        sha256="0" * 64,
        num_bytes=2,
        not_stored="the disk is full",
        steps_run=12,
        timings={"denoise": 0.25, "total": 1},
    ),
    prompts=(
        PromptFacts(num_tokens=7),
        PromptFacts(
            num_tokens=9,
            unread=UnreadText(
                dropped=(DroppedText("T5", "der Schluß", 16),),
                unknown_words=("ü",),
                marks=("</s>",),
            ),
        ),
    ),
)


def checkpoint(dtype: torch.dtype = torch.bfloat16, *, velocity: bool = True) -> ImageCheckpoint:
    latents = torch.tensor([[0.0, -0.0, float("nan")], [1e-40, 1 / 3, -2.0]], dtype=dtype)
    return ImageCheckpoint(
        image=3,
        checkpoint=PackedCheckpoint(
            step=5,
            latents=pack_tensor(latents),
            cuts=(Cut(2, 9), Cut(5, 6)),
            device_seconds=0.75,
            velocity=pack_tensor(-latents) if velocity else None,
        ),
    )


@pytest.mark.parametrize("velocity", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_comes_back_bit_by_bit(dtype: torch.dtype, velocity: bool) -> None:
    packed = checkpoint(dtype, velocity=velocity)
    found = unpack_part(pack_part(packed))
    assert isinstance(found, ImageCheckpoint)
    ours, theirs = packed.checkpoint, found.checkpoint
    assert (found.image, theirs.step, theirs.cuts) == (3, 5, ours.cuts)
    assert theirs.device_seconds == 0.75
    assert all(isinstance(cut, Cut) for cut in theirs.cuts)
    assert (theirs.velocity is None) == (not velocity)
    pairs = [(ours.latents, theirs.latents), (ours.velocity, theirs.velocity)]
    for before, after in pairs[: 1 + velocity]:
        assert before is not None
        assert after is not None
        assert (before.dtype, before.values.tobytes()) == (after.dtype, after.values.tobytes())
        assert unpack_tensor(after).dtype == dtype


@pytest.mark.parametrize("b64", ["aGk=", "", None])
def test_a_drawn_image_comes_back(b64: str | None) -> None:
    part = replace(DRAWN, file=replace(DRAWN.file, b64=b64))
    assert unpack_part(pack_part(part)) == part


@pytest.mark.parametrize("part", [checkpoint(), DRAWN])
def test_whatever_is_damaged_is_refused(part: Part) -> None:
    data = pack_part(part)
    rng = random.Random(5)
    for index in {0, 31, 32, 40, len(data) - 1, *rng.sample(range(len(data)), 40)}:
        broken = bytearray(data)
        broken[index] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError, match="part: its digest differs"):
            unpack_part(bytes(broken))
    for length in (0, 1, 31, 32, 33, len(data) - 1):
        with pytest.raises(ValueError, match="part: "):
            unpack_part(data[:length])


def signed(arrays: dict[str, np.ndarray], part: str | None) -> bytes:
    content = save(arrays, metadata=None if part is None else {"part": part})
    return hashlib.sha256(content).digest() + content


LATENTS = {"latents": np.zeros((2, 3), np.uint16)}
FIELDS = (
    '"image":0,"kind":"checkpoint","step":2,"cuts":[],"device_seconds":0.5,'
    '"dtypes":{"latents":"bfloat16"}'
)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        (LATENTS, "{" + FIELDS.replace("0.5", "-1") + "}"),
        (LATENTS, "{" + FIELDS.replace("0.5", "NaN") + "}"),
        (LATENTS, None),
        (LATENTS, ""),
        (LATENTS, "[]"),
        (LATENTS, "{" + FIELDS + ',"more":1}'),
        (LATENTS, '{"version":2,' + FIELDS + "}"),
        (LATENTS, "{" + FIELDS.replace("checkpoint", "other") + "}"),
        (LATENTS, "{" + FIELDS.replace('"step":2', '"step":-1') + "}"),
        (LATENTS, "{" + FIELDS.replace('"step":2', '"step":"2"') + "}"),
        (LATENTS, "{" + FIELDS.replace('"cuts":[]', '"cuts":[[1]]') + "}"),
        (LATENTS, "{" + FIELDS.replace("bfloat16", "float32") + "}"),
        (LATENTS, "{" + FIELDS.replace("bfloat16", "int64") + "}"),
        ({}, "{" + FIELDS + "}"),
        ({**LATENTS, "more": np.zeros(1)}, "{" + FIELDS + "}"),
    ],
)
def test_what_others_have_made_is_refused(arrays: dict[str, np.ndarray], part: str | None) -> None:
    assert isinstance(unpack_part(signed(LATENTS, "{" + FIELDS + "}")), ImageCheckpoint)
    with pytest.raises(ValueError, match="part: "):
        unpack_part(signed(arrays, part))


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack_part(checkpoint())
    monkeypatch.setattr(checkpoint_file, "MAX_PART_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match=f"part: {len(data)} bytes are more than"):
        pack_part(checkpoint())
    with pytest.raises(ValueError, match=f"part: {len(data)} bytes are more than"):
        unpack_part(data)


def test_other_dtypes_are_not_packed() -> None:
    latents = PackedTensor(values=np.zeros(1), dtype="int64")
    part = ImageCheckpoint(image=0, checkpoint=PackedCheckpoint(step=1, latents=latents))
    with pytest.raises(ValueError, match="bfloat16"):
        pack_part(part)


def test_no_torch_is_needed() -> None:
    code = "import sys, deployments.wire.checkpoint_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_comes_back_with_all_who_have_drawn_it() -> None:
    part = checkpoint()
    stages = (*STAGES, replace(STAGES[0], weights=None, compile=True))
    part = replace(part, checkpoint=replace(part.checkpoint, drawn_by=stages))
    found = unpack_part(pack_part(part))
    assert isinstance(found, ImageCheckpoint)
    assert found.checkpoint.drawn_by == stages
