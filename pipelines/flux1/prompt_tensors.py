"""What FLUX.1's text encoders make of a prompt, and its transformer takes.

L  text tokens      C  text width      P  pooled text width
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from pipelines.contracts import Conditioning, TokenGroup
from pipelines.errors import InvalidRequest
from pipelines.prompts.unread_text import UnreadText


class PromptTensors(NamedTuple):
    """`prompt_embeds` (L, C), padding included, and `pooled_prompt_embeds` (P,), of one dtype."""

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        """L tokens of text: the pooled vector is none, it goes into modulation."""
        return (TokenGroup("text", len(self.prompt_embeds)),)

    def conditioning(self, *, num_tokens: int, unread: UnreadText = UnreadText()) -> Conditioning:
        """For the denoiser; `num_tokens` and `unread` as there."""
        return Conditioning(
            tensors=self._asdict(), groups=self.groups, num_tokens=num_tokens, unread=unread
        )

    @classmethod
    def of(cls, conditioning: Conditioning) -> PromptTensors:
        """The tensors of a conditioning. Raises InvalidRequest for that of another family."""
        if conditioning.tensors.keys() != set(cls._fields):
            raise InvalidRequest(
                f"conditioning is of {_names(conditioning.tensors)}, but the denoiser takes"
                f" {_names(cls._fields)}: both stages must load the same model"
            )
        tensors = cls(**conditioning.tensors)
        if conditioning.groups != tensors.groups:
            raise InvalidRequest(
                f"conditioning has the token groups {conditioning.groups}, its tensors"
                f" {tensors.groups}: both stages must be of one version"
            )
        return tensors


def _names(names: Iterable[str]) -> str:
    return " and ".join(names) or "nothing"
