"""What other tools read from a prompt and this one does not: adapters by name, and weights unless
it is told to.

The text encoder gets such text as it is written, as `diffusers.FluxPipeline` does; so it has to be
told that it does not do what it does elsewhere. Whether the encoder has tokens for it is not known
here, but told by `UnreadText`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

_MOST = 3
_QUOTED_CHARACTERS = 60

# Bounded everywhere, so that a long prompt of brackets or spaces takes no longer than others.
_WEIGHT = re.compile(
    r"\([^()]{1,300}:\s{0,4}[+-]?(?:[0-9](?:\.[0-9]{0,6})?|\.[0-9]{1,6})\s{0,4}\)"
    r"|\({2,8}[^()]{1,300}\){2,8}"
)
_ADAPTER = re.compile(
    r"<\s{0,4}(?:lora|lyco|hypernet|lora_[a-z]{1,10})\s{0,4}:[^<>]{1,200}>", re.IGNORECASE
)


def markup_warnings(field: str, text: str, *, is_weighted: bool = False) -> list[str]:
    """One sentence for each kind of markup in `text`, which the client wrote in `field`, that has
    no effect; where the text `is_weighted`, weights have one."""
    found: list[str] = []
    if not is_weighted and (weights := _quoted(_WEIGHT, text)):
        found.append(
            f"{field}: weights such as {weights} have no effect without prompt_weighting: true;"
            " they go to the text encoder as written, brackets and numbers included"
        )
    if adapters := _quoted(_ADAPTER, text):
        found.append(
            f"{field}: {adapters} loads nothing, as adapters (LoRA) are not served yet; it goes to"
            " the text encoder as written"
        )
    return found


def quoted(words: Sequence[str], *, most: int = 8) -> str:
    """The first of `words` in quotation marks, and how many more there are."""
    shown = ", ".join(
        f'"{word if len(word) <= _QUOTED_CHARACTERS else word[:_QUOTED_CHARACTERS] + "…"}"'
        for word in words[:most]
    )
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def _quoted(pattern: re.Pattern[str], text: str) -> str:
    """The first matches that hold a letter, as the ratio `(4:3)` does not; "" if there is none."""
    matches = (match[0] for match in islice(pattern.finditer(text), 100))
    words = dict.fromkeys(match for match in matches if any(map(str.isalpha, match)))
    return quoted(list(words), most=_MOST)
