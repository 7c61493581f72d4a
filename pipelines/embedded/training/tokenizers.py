"""The two tokenizers, built from the vocabulary of the captions.

Both know every word as one token. What they do not know they still accept: CLIP's falls back to
bytes, T5's to one unknown token per word.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer

from pipelines.embedded.training.captions import vocabulary

CLIP_LENGTH = 32
T5_LENGTH = 16
"""The one padded length of T5 text. Padding takes part in attention, so it changes the result."""

CLIP_BOS, CLIP_EOS, CLIP_PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_WORD_START, _WORD_END = "▁", "</w>"


def build_clip_tokenizer(words: Sequence[str] | None = None) -> CLIPTokenizer:
    """Byte-level BPE: all 256 bytes, and the merges that make one token of each known word.

    The known words are those of the captions, if no others are given.

    No token may stand for the unknown: CLIP pools at the first end token, and an unknown word that
    became one would cut the sentence short.
    """
    alphabet = sorted(set(_byte_characters()))
    merges = _learn_merges([[*word[:-1], word[-1] + _WORD_END] for word in words or vocabulary()])
    tokens = [CLIP_PAD, CLIP_BOS, *alphabet, *(character + _WORD_END for character in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens.append(CLIP_EOS)
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]
        bos_token=CLIP_BOS,
        eos_token=CLIP_EOS,
        unk_token=CLIP_EOS,
        pad_token=CLIP_PAD,
        model_max_length=CLIP_LENGTH,
    )


def build_t5_tokenizer(words: Sequence[str] | None = None) -> T5Tokenizer:
    """Unigram over whole words (the captions' or these) in every usual spelling, and marks."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(mark, -6.0) for mark in ",.!?;:-'\"()"]
    words = words or vocabulary()
    spellings = [*words, *map(str.capitalize, words), *map(str.upper, words)]
    pieces += [(_WORD_START + word, -4.0) for word in dict.fromkeys(spellings)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)


def lower_case_ids(tokenizer: T5Tokenizer) -> list[int]:
    """For every T5 token, the token of the same word in lower case, or itself."""
    ids = tokenizer.get_vocab()
    return [ids.get(token.lower(), index) for token, index in sorted(ids.items(), key=_index)]


def _index(item: tuple[str, int]) -> int:
    return item[1]


def _byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte: itself, where that is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [chr(byte) for byte in printable]
    others = 256 - len(printable)
    return characters + [chr(0x100 + index) for index in range(others)]


def _learn_merges(words: list[list[str]]) -> list[tuple[str, str]]:
    """Merge the most frequent pair of pieces again and again until every word is one piece.

    Learnt from all words together, because merges apply by rank: a chain made for one word alone
    could be broken by a merge of another.
    """
    merges: list[tuple[str, str]] = []
    while any(len(pieces) > 1 for pieces in words):
        pairs = Counter(pair for pieces in words for pair in pairwise(pieces))
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((left, right))
        words = [_merge(pieces, left, right) for pieces in words]
    return merges


def _merge(pieces: list[str], left: str, right: str) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if piece == right and merged and merged[-1] == left:
            merged[-1] = left + right
        else:
            merged.append(piece)
    return merged
