"""Tensors as they travel between processes: numpy arrays and the names of their torch dtypes.

No torch here, so that the graph can hold what it does not look into; `tensors.py` makes tensors of
these, and these of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.contracts import StepEvent, TokenGroup
from pipelines.cuts import Cut
from pipelines.errors import SluiceError
from pipelines.previews.preview import Preview
from pipelines.prompts.unread_text import UnreadText
from pipelines.provenance import Provenance
from pipelines.tasks import PictureRole
from pipelines.tracing.spans import Spans, Timed


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """What is to be told of an encoded prompt: the tokens used, and what was not taken in."""

    num_tokens: int
    unread: UnreadText = field(default_factory=UnreadText)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTensor:
    """A tensor's values (any shape) as numpy, with the name of its torch dtype."""

    values: np.ndarray
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedConditioning(Timed):
    """`Conditioning` on the wire, and who encoded it."""

    tensors: Mapping[str, PackedTensor]
    groups: tuple[TokenGroup, ...]
    num_tokens: int
    unread: UnreadText
    drawn_by: Provenance = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPicture(Timed):
    """`EncodedPicture` on the wire, and who encoded it."""

    role: PictureRole
    height: int
    width: int
    values: PackedTensor
    digest: str
    shift: float = 0.0
    scale: float = 1.0
    drawn_by: Provenance = ()

    @property
    def num_bytes(self) -> int:
        """Of its values, which are nearly all of it."""
        return self.values.values.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLatents(Timed):
    """`Latents` on the wire, with what is to be told of the prompts that they were drawn from, and
    all stages that have had a part in them."""

    packed: PackedTensor
    height: int
    width: int
    steps_run: int
    cuts: tuple[Cut, ...] = ()
    device_seconds: float = 0.0
    prompts: tuple[PromptFacts, ...] = ()
    drawn_by: Provenance = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCheckpoint:
    """`Checkpoint` on the wire, without its work's id: each attempt at an image has its own. With
    all stages that have had a part in it so far."""

    step: int
    latents: PackedTensor
    cuts: tuple[Cut, ...] = ()
    velocity: PackedTensor | None = None
    device_seconds: float = 0.0
    spans: Spans = ()
    drawn_by: Provenance = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """The replica goes away, or another has more time: it has stopped this image, and what it did
    is in the last checkpoint. `was_accepted` unless it was asked too late to take it on."""

    was_accepted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The last item of a stream that ends with one of our own errors, which `Calls` raises.

    To refuse is ordinary. Raised through Serve, an error would leave a traceback in the log here,
    and others in both processes where nobody waits for it any more: of an image whose sibling was
    refused first.
    """

    error: SluiceError


Denoising = PackedCheckpoint | StepEvent | Preview | PackedLatents | HandOver | Refusal
"""What a call to denoise yields: any number of checkpoints, steps and previews if they were asked
for, and last latents, `HandOver` or `Refusal`."""
