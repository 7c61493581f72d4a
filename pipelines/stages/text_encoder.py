"""The text encoder stage: prompts to conditionings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.contracts import Conditioning, TextPrompt
from pipelines.families import PromptEncoder, family_named
from pipelines.prompts.weighting import WeightedText, parse_weights


class TextEncoderStage:
    """Encodes prompts of one length together."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder

    @classmethod
    def load(
        cls,
        source: str,
        *,
        family: str = DEFAULT_FAMILY,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> TextEncoderStage:
        """The stage with the weights of `source`. Raises CheckpointError, ConfigurationError."""
        load = family_named(family).load_prompt_encoder
        return cls(load(source, device=device, dtype=dtype))

    @torch.inference_mode()
    def encode(self, prompts: Sequence[TextPrompt]) -> list[Conditioning]:
        """One conditioning per prompt, in order.

        All prompts must share one `max_sequence_length`; ValueError otherwise. Raises
        InvalidRequest for weights that are none.
        """
        if not prompts:
            return []
        (length,) = {prompt.max_sequence_length for prompt in prompts}
        texts = [
            parse_weights(prompt.prompt) if prompt.is_weighted else WeightedText(prompt.prompt)
            for prompt in prompts
            if not prompt.is_blank
        ]
        encoded = iter(self._encoder.encode(texts, length) if texts else ())
        return [
            self._encoder.blank(length) if prompt.is_blank else next(encoded) for prompt in prompts
        ]
