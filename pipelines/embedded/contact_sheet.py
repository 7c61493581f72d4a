"""Draws sixteen prompts with the carried model and puts them on one picture.

``python -m pipelines.embedded.contact_sheet docs/contact-sheet.png``
"""

import argparse
from pathlib import Path

from PIL import Image

from pipelines.embedded import EMBEDDED_MODEL_DIR, evaluate, world

PROMPTS = (
    "a red circle on a white background",
    "a yellow star on a navy background",
    "a blue square on a mint background",
    "a green triangle on a gray background",
    "a pink diamond on a black background",
    "an orange cross on a brown background",
    "draw a purple star, please",
    "on a black background, a cyan circle",
    "a red circle to the left of a blue square on a white background",
    "a yellow star above a pink circle on a navy background",
    "a green cross next to an orange diamond on a black background",
    "a purple triangle below a cyan square on a brown background",
    "a blue star on the left and a red triangle on the right, gray background",
    "an orange circle on top of a green diamond on mint",
    "a pink cross right of a yellow square on a navy background",
    "a cyan triangle under a red star on a white background",
)
GAP = 4
SCALE = 2


def contact_sheet(model: Path, prompts: tuple[str, ...] = PROMPTS, *, columns: int = 4) -> Image.Image:
    """One row of four pictures after the other, each twice its size; picture i has seed i."""
    question = evaluate.question_for(model)
    pictures = evaluate.draw(evaluate.load(model), question, list(prompts))
    cell = SCALE * world.SIZE + GAP
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * cell + GAP, rows * cell + GAP), "white")
    for index, picture in enumerate(pictures):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        side = (SCALE * world.SIZE, SCALE * world.SIZE)
        image = Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC)
        row, column = divmod(index, columns)
        sheet.paste(image, (GAP + column * cell, GAP + row * cell))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(arguments.model).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
