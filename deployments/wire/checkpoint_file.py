"""A `Part` of a request as bytes, for whoever keeps it: what an image would go on from.

    32 bytes    SHA-256 of the rest
    the rest    a safetensors file: the tensors, and in its metadata, under "part", the other
                fields as JSON

Nothing is unpickled, and what was damaged on the way is refused. No torch: tensors are numpy's, as
in `packed.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deployments.wire.packed import PackedCheckpoint, PackedTensor, PromptFacts
from deployments.wire.parts import ImageCheckpoint, ImageDrawn, Part
from pipelines.contracts import FinishedImage
from pipelines.cuts import Cut
from pipelines.provenance import Provenance

MAX_PART_BYTES = 64 * 2**20
"""Of what is packed and unpacked here. Latents of 2048 x 2048 pixels in float32 are 4 MiB."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_STORED_AS = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
"""torch's dtypes that latents have, and numpy's of what stands for them (`tensors.py`)."""

_Dtype = Literal["float32", "float16", "bfloat16"]


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    image: NonNegativeInt


class _Checkpoint(_Fields):
    kind: Literal["checkpoint"] = "checkpoint"
    step: NonNegativeInt
    cuts: tuple[Cut, ...]
    drawn_by: Provenance = ()
    device_seconds: NonNegativeFloat
    dtypes: Mapping[Literal["latents", "velocity"], _Dtype]


class _Drawn(_Fields):
    kind: Literal["drawn"] = "drawn"
    file: FinishedImage
    """Without its base64 text, which stands beside it as a tensor of ASCII codes."""
    prompts: tuple[PromptFacts, ...]


_FIELDS: TypeAdapter[_Checkpoint | _Drawn] = TypeAdapter(
    Annotated[_Checkpoint | _Drawn, Field(discriminator="kind")]
)


def pack_part(part: Part) -> bytes:
    """The bytes of `part`. Raises ValueError for one that is too large, or of another dtype."""
    if isinstance(part, ImageCheckpoint):
        fields, arrays = _of_checkpoint(part)
    else:
        fields, arrays = _of_drawn(part)
    content = save(arrays, metadata={"part": fields.model_dump_json()})
    _check_size(_DIGEST_BYTES + len(content))
    return hashlib.sha256(content).digest() + content


def unpack_part(data: bytes) -> Part:
    """What was packed. Raises ValueError, saying what is wrong, for anything else."""
    _check_size(len(data))
    content = data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        raise ValueError("part: its digest differs, so it was damaged or cut off")
    try:
        arrays = load(content)
        fields = _FIELDS.validate_json(_metadata(content)["part"])
    except (SafetensorError, KeyError, ValidationError) as error:
        raise ValueError(f"part: is none that this version reads: {error}") from error
    if isinstance(fields, _Checkpoint):
        return _checkpoint(fields, arrays)
    return _drawn(fields, arrays)


def _of_checkpoint(part: ImageCheckpoint) -> tuple[_Fields, dict[str, np.ndarray]]:
    checkpoint = part.checkpoint
    tensors = {"latents": checkpoint.latents}
    if checkpoint.velocity is not None:
        tensors["velocity"] = checkpoint.velocity
    fields = _Checkpoint.model_validate(
        {
            "image": part.image,
            "step": checkpoint.step,
            "cuts": checkpoint.cuts,
            "drawn_by": checkpoint.drawn_by,
            "device_seconds": checkpoint.device_seconds,
            "dtypes": {name: tensor.dtype for name, tensor in tensors.items()},
        }
    )
    return fields, {name: np.ascontiguousarray(each.values) for name, each in tensors.items()}


def _checkpoint(fields: _Checkpoint, arrays: Mapping[str, np.ndarray]) -> ImageCheckpoint:
    if arrays.keys() != fields.dtypes.keys() or "latents" not in arrays:
        raise ValueError(f"part: has tensors {sorted(arrays)} for {sorted(fields.dtypes)}")
    tensors: dict[str, PackedTensor] = {}
    for name, dtype in fields.dtypes.items():
        if arrays[name].dtype != _STORED_AS[dtype]:
            raise ValueError(f"part: {name} are {arrays[name].dtype}, which is not {dtype}")
        tensors[name] = PackedTensor(values=arrays[name], dtype=dtype)
    return ImageCheckpoint(
        image=fields.image,
        checkpoint=PackedCheckpoint(
            step=fields.step,
            latents=tensors["latents"],
            cuts=fields.cuts,
            velocity=tensors.get("velocity"),
            drawn_by=fields.drawn_by,
            device_seconds=fields.device_seconds,
        ),
    )


def _of_drawn(part: ImageDrawn) -> tuple[_Fields, dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}
    if part.file.b64 is not None:
        arrays["b64"] = np.frombuffer(part.file.b64.encode("ascii"), dtype=np.uint8)
    file = replace(part.file, b64=None, spans=())
    return _Drawn(image=part.image, file=file, prompts=part.prompts), arrays


def _drawn(fields: _Drawn, arrays: Mapping[str, np.ndarray]) -> ImageDrawn:
    if arrays.keys() - {"b64"}:
        raise ValueError(f"part: has tensors {sorted(arrays)}, but a drawn image only b64")
    file = fields.file
    if (codes := arrays.get("b64")) is not None:
        if codes.dtype != np.uint8 or codes.ndim != 1:
            raise ValueError("part: b64 is no text")
        file = replace(file, b64=codes.tobytes().decode("ascii"))  # UnicodeError is a ValueError
    return ImageDrawn(image=fields.image, file=file, prompts=fields.prompts)


def _metadata(content: bytes) -> Mapping[str, Any]:
    """Of a safetensors file that could be loaded, and so has a header."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_PART_BYTES:
        raise ValueError(f"part: {num_bytes} bytes are more than {MAX_PART_BYTES}")
