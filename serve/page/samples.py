"""Prompts and sizes that a model is good at, to begin with. Knows models by name only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Samples(NamedTuple):
    """What the page offers: `prompts` to try, and `shapes`, each WIDTHxHEIGHT or a ratio W:H."""

    prompts: tuple[str, ...]
    shapes: tuple[str, ...]


_OF_MODELS: Mapping[str, Samples] = {
    "sluice-shapes": Samples(
        prompts=(
            "a red circle left of a blue square",
            "a yellow star on a navy background",
            "a pink heart above a green diamond on white",
            "a small orange ring in the top right corner on a black background",
            "a white cross on a purple background",
            "a mint triangle below a brown circle",
        ),
        shapes=("64x64", "96x64", "64x96", "96x96", "128x128"),
    ),
}
"""The carried model knows few words: `pipelines/embedded/training/captions.py`."""

_OF_OTHERS = Samples(
    prompts=(
        "a lighthouse in a storm, oil on canvas",
        "a fox asleep in autumn leaves, soft morning light",
        "the word SLUICE painted on a rusty lock gate",
        "an isometric paper model of a small harbour town",
    ),
    shapes=("1:1", "3:2", "2:3", "16:9", "9:16"),
)


def samples_of(model: str) -> Samples:
    """Those for the model of this name in the catalogue."""
    return _OF_MODELS.get(model, _OF_OTHERS)
