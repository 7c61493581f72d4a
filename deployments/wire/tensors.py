"""Tensors between processes: torch on both sides, numpy on the wire.

Ray moves numpy arrays out of band, without a copy on arrival; torch tensors it pickles. numpy has
no bfloat16, so such a tensor travels as the uint16 view of its bits. The receiver chooses the
device. torch is imported when a tensor is at hand, so that wiring deployments needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.wire.packed import (
    PackedCheckpoint,
    PackedConditioning,
    PackedLatents,
    PackedPicture,
    PackedTensor,
)
from pipelines.contracts import Checkpoint, Conditioning, EncodedPicture, Latents

if TYPE_CHECKING:
    import torch

_BITS = {"bfloat16": "uint16"}
"""dtypes that numpy lacks, and the integers of the same size that carry their bits."""


def pack_tensor(tensor: torch.Tensor) -> PackedTensor:
    """The tensor for the wire; one on the CPU is not copied."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    bits = tensor.detach().cpu().contiguous()
    if dtype in _BITS:
        bits = bits.view(getattr(torch, _BITS[dtype]))
    return PackedTensor(values=bits.numpy(), dtype=dtype)


def unpack_tensor(packed: PackedTensor, *, device: str = "cpu") -> torch.Tensor:
    """The tensor, bit for bit, on `device`.

    What arrives from another process is read-only memory of the object store. torch has no
    read-only tensors, and writing there would change the sender's object: so it is copied.
    """
    import torch

    values = packed.values if packed.values.flags.writeable else packed.values.copy()
    tensor = torch.from_numpy(values)
    if packed.dtype in _BITS:
        tensor = tensor.view(getattr(torch, packed.dtype))
    return tensor.to(device)


def pack_conditioning(conditioning: Conditioning) -> PackedConditioning:
    """A conditioning for the wire."""
    return PackedConditioning(
        tensors={name: pack_tensor(each) for name, each in conditioning.tensors.items()},
        groups=conditioning.groups,
        num_tokens=conditioning.num_tokens,
        unread=conditioning.unread,
        timings=conditioning.timings,
        spans=conditioning.spans,
    )


def unpack_conditioning(packed: PackedConditioning, *, device: str = "cpu") -> Conditioning:
    """The conditioning, its tensors on `device`."""
    return Conditioning(
        tensors={name: unpack_tensor(each, device=device) for name, each in packed.tensors.items()},
        groups=packed.groups,
        num_tokens=packed.num_tokens,
        unread=packed.unread,
        timings=packed.timings,
        spans=packed.spans,
    )


def pack_picture(picture: EncodedPicture) -> PackedPicture:
    """An encoded picture for the wire."""
    return PackedPicture(
        role=picture.role,
        height=picture.height,
        width=picture.width,
        values=pack_tensor(picture.values),
        digest=picture.digest,
        shift=picture.shift,
        scale=picture.scale,
        timings=picture.timings,
        spans=picture.spans,
    )


def unpack_picture(packed: PackedPicture, *, device: str = "cpu") -> EncodedPicture:
    """The encoded picture, its values on `device`."""
    return EncodedPicture(
        role=packed.role,
        height=packed.height,
        width=packed.width,
        values=unpack_tensor(packed.values, device=device),
        digest=packed.digest,
        shift=packed.shift,
        scale=packed.scale,
        timings=packed.timings,
        spans=packed.spans,
    )


def pack_latents(latents: Latents) -> PackedLatents:
    """Latents for the wire."""
    return PackedLatents(
        packed=pack_tensor(latents.packed),
        height=latents.height,
        width=latents.width,
        steps_run=latents.steps_run,
        cuts=latents.cuts,
        device_seconds=latents.device_seconds,
        timings=latents.timings,
        spans=latents.spans,
    )


def unpack_latents(packed: PackedLatents, *, device: str = "cpu") -> Latents:
    """The latents, on `device`."""
    return Latents(
        packed=unpack_tensor(packed.packed, device=device),
        height=packed.height,
        width=packed.width,
        steps_run=packed.steps_run,
        cuts=packed.cuts,
        device_seconds=packed.device_seconds,
        timings=packed.timings,
        spans=packed.spans,
    )


def pack_checkpoint(checkpoint: Checkpoint) -> PackedCheckpoint:
    """A checkpoint for the wire."""
    velocity = checkpoint.velocity
    return PackedCheckpoint(
        step=checkpoint.step,
        latents=pack_tensor(checkpoint.latents),
        cuts=checkpoint.cuts,
        velocity=None if velocity is None else pack_tensor(velocity),
        device_seconds=checkpoint.device_seconds,
        spans=checkpoint.spans,
    )


def unpack_checkpoint(packed: PackedCheckpoint, *, work_id: str) -> Checkpoint:
    """The checkpoint, its tensors on the CPU, as one of the work `work_id`."""
    velocity = packed.velocity
    return Checkpoint(
        work_id=work_id,
        step=packed.step,
        latents=unpack_tensor(packed.latents),
        cuts=packed.cuts,
        velocity=None if velocity is None else unpack_tensor(velocity),
        device_seconds=packed.device_seconds,
    )
