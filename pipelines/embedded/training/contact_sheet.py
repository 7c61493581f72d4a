"""Draws sixteen prompts with the carried model and puts them on one picture.

``python -m pipelines.embedded.training.contact_sheet docs/contact-sheet.png``
"""

import argparse
from pathlib import Path

from PIL import Image

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import evaluate
from pipelines.embedded.training.world import Canvas

PROMPTS = (
    "a red circle on a white background",
    "a yellow star on a blue background",
    "a white heart on a pink background",
    "a green triangle on an orange background",
    "a small black ring on a mint background",
    "an orange cross in the top left corner on a navy background",
    "draw a big purple diamond on yellow, please",
    "on a black background, a cyan square at the bottom right",
    "a red circle to the left of a blue square on a white background",
    "a yellow star above a white ring on a navy background",
    "a green cross next to an orange heart on a black background",
    "a purple triangle below a cyan square on a brown background",
    "a blue star on the left and a red heart on the right, gray background",
    "a white circle on top of a green diamond on mint",
    "a pink ring right of a yellow square on a purple background",
    "a navy triangle under a red star on a cyan background",
)
GAP = 4


def contact_sheet(model: Path, *, size: int = 128, columns: int = 4) -> Image.Image:
    """The prompts' pictures in rows of four; picture i has seed i."""
    question = evaluate.question_for(model, canvas=Canvas(size, size))
    pictures = evaluate.draw(evaluate.load(model), question, list(PROMPTS))
    cell = size + GAP
    rows = -(-len(PROMPTS) // columns)
    sheet = Image.new("RGB", (columns * cell + GAP, rows * cell + GAP), "white")
    for index, picture in enumerate(pictures):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(pixels), (GAP + column * cell, GAP + row * cell))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR)
    parser.add_argument("--size", type=int, default=128, help="pixels on each side")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(arguments.model, size=arguments.size).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
