"""The parameters text of a file, per image of a request. Pure."""

from __future__ import annotations

import re

_SEED = re.compile(r"(?<=\bSeed: )\d+")


def with_seed(parameters: str, seed: int) -> str:
    """The text of one image, from the text of the request's first image.

    Settings are the text's last line ("Steps: 28, Seed: 7, ..."); the prompt above stays as it is.
    """
    prompt, newline, settings = parameters.rpartition("\n")
    return prompt + newline + _SEED.sub(str(seed), settings, count=1)
