from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.wire.tensors import (
    PackedTensor,
    pack_checkpoint,
    pack_conditioning,
    pack_latents,
    pack_tensor,
    unpack_checkpoint,
    unpack_conditioning,
    unpack_latents,
    unpack_tensor,
)
from pipelines.contracts import Checkpoint, Conditioning, Cut, Latents, TokenGroup
from pipelines.prompts.unread_text import DroppedText, UnreadText

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _read_only(packed: PackedTensor) -> PackedTensor:
    """What the object store hands out."""
    values = packed.values.copy()
    values.flags.writeable = False
    return PackedTensor(values=values, dtype=packed.dtype)


def _special_values(dtype: torch.dtype) -> torch.Tensor:
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, 65504.0, 1 / 3]
    return torch.tensor(special, dtype=dtype).reshape(2, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_is_exact_bit_by_bit(dtype: torch.dtype) -> None:
    for tensor in (_special_values(dtype), torch.randn(3, 5, dtype=dtype)):
        arrived = unpack_tensor(_read_only(pack_tensor(tensor)))
        assert arrived.dtype == tensor.dtype
        assert arrived.shape == tensor.shape
        assert torch.equal(_bits(arrived), _bits(tensor))


def test_bfloat16_travels_as_its_bits() -> None:
    packed = pack_tensor(torch.tensor([1.0], dtype=torch.bfloat16))
    assert packed.dtype == "bfloat16"
    assert packed.values.dtype == np.uint16
    assert packed.values[0] == 0x3F80


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_shares_memory(dtype: torch.dtype) -> None:
    tensor = torch.zeros(8, dtype=dtype)
    packed = pack_tensor(tensor)
    tensor[3] = 1.0
    assert packed.values[3] != 0


def test_what_is_read_only_is_copied_and_never_written() -> None:
    packed = _read_only(pack_tensor(torch.zeros(4)))
    unpack_tensor(packed).add_(1.0)
    assert not packed.values.any()


def test_what_is_writable_is_not_copied() -> None:
    packed = pack_tensor(torch.zeros(4))
    unpack_tensor(packed).add_(1.0)
    assert packed.values.all()


def test_a_view_with_gaps_is_packed_whole() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)[:, ::2]
    assert torch.equal(unpack_tensor(pack_tensor(tensor)), tensor)


def test_a_tensor_with_a_gradient_is_packed() -> None:
    assert pack_tensor(torch.ones(2, requires_grad=True)).values.tolist() == [1.0, 1.0]


def test_conditioning_and_latents_keep_every_field() -> None:
    conditioning = Conditioning(
        tensors={
            "words": torch.randn(4, 8, dtype=torch.bfloat16),
            "pictures": torch.randn(6, 2),
            "pooled": torch.randn(6, dtype=torch.bfloat16),
        },
        groups=(TokenGroup("text", 4), TokenGroup("reference", 6)),
        num_tokens=3,
        unread=UnreadText(
            dropped=(DroppedText("T5", "tail", max_tokens=3),), unknown_words=("zz",)
        ),
        timings={"encode": 0.5},
    )
    arrived = unpack_conditioning(pack_conditioning(conditioning), device="cpu")
    assert arrived.tensors.keys() == conditioning.tensors.keys()
    for name, tensor in conditioning.tensors.items():
        assert torch.equal(arrived.tensors[name], tensor)
    assert (arrived.groups, arrived.sequence_length) == (conditioning.groups, 10)
    assert (arrived.num_tokens, arrived.unread) == (3, conditioning.unread)
    assert arrived.timings == {"encode": 0.5}

    latents = Latents(
        packed=torch.randn(16, 64), height=64, width=48, steps_run=4, timings={"denoise": 1.0}
    )
    back = unpack_latents(pack_latents(latents))
    assert torch.equal(back.packed, latents.packed)
    assert (back.height, back.width, back.steps_run) == (64, 48, 4)
    assert back.timings == {"denoise": 1.0}


def test_checkpoints_keep_every_field_and_take_the_id_of_the_next_attempt() -> None:
    checkpoint = Checkpoint(
        work_id="first",
        step=3,
        latents=torch.randn(16, 64, dtype=torch.bfloat16),
        cuts=(Cut(step=2, num_steps=9),),
        velocity=torch.randn(16, 64),
    )
    back = unpack_checkpoint(pack_checkpoint(checkpoint), work_id="second")
    assert torch.equal(back.latents, checkpoint.latents)
    assert back.velocity is not None
    assert checkpoint.velocity is not None
    assert torch.equal(back.velocity, checkpoint.velocity)
    assert (back.work_id, back.step, back.cuts) == ("second", 3, checkpoint.cuts)

    plain = Checkpoint(work_id="first", step=1, latents=torch.zeros(4, 4))
    assert unpack_checkpoint(pack_checkpoint(plain), work_id="first").velocity is None
