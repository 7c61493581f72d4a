"""FLUX.1's text encoders: CLIP for the pooled vector, T5 for the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipelines.batch_invariant import linears_are_invariant, rounds_by_position
from pipelines.contracts import Conditioning
from pipelines.flux1.checkpoint import TextComponents
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.flux1.prompt_weights import token_weights, weigh
from pipelines.prompts.unread_text import DroppedText, UnreadText
from pipelines.prompts.weighting import WeightedText
from pipelines.stages.prompt_reading import read_texts


class FluxText:
    """A `pipelines.families.PromptEncoder`, as `FluxPipeline.encode_prompt`.

    No attention mask is used anywhere: the padding takes part, so the padded length is part of the
    result and is never trimmed.
    """

    def __init__(self, components: TextComponents) -> None:
        self._clip_tokenizer, self._clip, self._t5_tokenizer, self._t5 = components

    def encode(self, texts: Sequence[WeightedText], length: int) -> list[Conditioning]:
        """One conditioning per text, in order, padded to `length`; where words have weights, its
        embeddings are weighed, and the pooled vector is not."""
        weighted, texts = texts, [each.text for each in texts]
        pooled = self._pooled(texts)
        ids = self._t5_tokens(texts, length)
        unread = self._unread(texts, length)
        parts = _parts(self._t5, ids.to(self._t5.device))
        embeds = torch.cat([self._t5(part, output_hidden_states=False)[0] for part in parts])
        used = (ids != torch.tensor(self._t5_tokenizer.pad_token_id)).sum(dim=1).tolist()
        return [
            # Cloned: a view would keep, and send, the whole batch.
            PromptTensors(
                prompt_embeds=self._weighed(embeds[i].to(self._t5.dtype).clone(), weighted[i]),
                pooled_prompt_embeds=pooled[i].clone(),
            ).conditioning(num_tokens=used[i], unread=unread[i])
            for i in range(len(texts))
        ]

    def blank(self, length: int) -> Conditioning:
        """Zeros, as `FluxPriorReduxPipeline` has them without text encoders."""
        width, pooled = self._t5.config.d_model, self._clip.config.hidden_size
        return PromptTensors(
            prompt_embeds=torch.zeros(length, width, device=self._t5.device, dtype=self._t5.dtype),
            pooled_prompt_embeds=torch.zeros(
                pooled, device=self._clip.device, dtype=self._clip.dtype
            ),
        ).conditioning(num_tokens=0)

    def _pooled(self, texts: list[str]) -> torch.Tensor:
        """CLIP's pooled output (B, P), from its own tokenizer's full length."""
        tokenizer: Any = self._clip_tokenizer
        tokens = tokenizer(
            texts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids: torch.Tensor = tokens.input_ids.to(self._clip.device)
        # T5's activation is made of others, that round alike everywhere; CLIP's is not.
        parts = ids.split(1) if rounds_by_position(ids.device) else _parts(self._clip, ids)
        pooled = [self._clip(part, output_hidden_states=False).pooler_output for part in parts]
        return torch.cat(pooled).to(self._clip.dtype)

    def _t5_tokens(self, texts: list[str], length: int) -> torch.Tensor:
        """Padded ids (B, length)."""
        tokenizer: Any = self._t5_tokenizer
        tokens = tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids

    def _weighed(self, embeds: torch.Tensor, text: WeightedText) -> torch.Tensor:
        """Embeddings (length, C) as the words of `text` count."""
        if not text.spans:
            return embeds
        tokenizer: Any = self._t5_tokenizer
        tokens = tokenizer(
            text.text,
            padding="max_length",
            max_length=len(embeds),
            truncation=True,
            return_offsets_mapping=True,
        )
        return weigh(embeds, token_weights(text, tokens.offset_mapping))

    def _unread(self, texts: list[str], length: int) -> list[UnreadText]:
        """What each text said in vain."""
        clip: Any = self._clip_tokenizer
        pairs = zip(
            read_texts(self._t5_tokenizer, texts, length),
            read_texts(clip, texts, clip.model_max_length),
            strict=True,
        )
        return [
            UnreadText(
                dropped=tuple(
                    each
                    for each in (
                        DroppedText("T5", t5.dropped_text, max_tokens=length),
                        DroppedText("CLIP", pooled.dropped_text),
                    )
                    if each.text
                ),
                unknown_words=tuple(dict.fromkeys((*t5.unknown_words, *pooled.unknown_words))),
                marks=tuple(dict.fromkeys((*t5.marks, *pooled.marks))),
            )
            for t5, pooled in pairs
        ]


def _parts(encoder: Any, ids: torch.Tensor) -> Sequence[torch.Tensor]:
    """The token ids (B, L) that `encoder` can take together without a change of bits."""
    if len(ids) == 1 or ids.device.type != "cpu":
        return [ids]
    alike = linears_are_invariant(encoder, (ids.shape[1],) * len(ids))
    return [ids] if alike else ids.split(1)
