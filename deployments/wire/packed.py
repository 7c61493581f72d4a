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
from pipelines.prompts.unread_text import UnreadText
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
    """`Conditioning` on the wire."""

    tensors: Mapping[str, PackedTensor]
    groups: tuple[TokenGroup, ...]
    num_tokens: int
    unread: UnreadText


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLatents(Timed):
    """`Latents` on the wire, with what is to be told of the prompts that they were drawn from."""

    packed: PackedTensor
    height: int
    width: int
    steps_run: int
    cuts: tuple[Cut, ...] = ()
    prompts: tuple[PromptFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCheckpoint:
    """`Checkpoint` on the wire, without its work's id: each attempt at an image has its own."""

    step: int
    latents: PackedTensor
    cuts: tuple[Cut, ...] = ()
    velocity: PackedTensor | None = None
    spans: Spans = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """The replica goes away, or another has more time: it has stopped this image, and what it did
    is in the last checkpoint. `was_accepted` unless it was asked too late to take it on."""

    was_accepted: bool = True


Denoising = PackedCheckpoint | StepEvent | PackedLatents | HandOver
"""What a call to denoise yields: any number of checkpoints, steps if they were asked for, and
last latents or `HandOver`."""
