"""Edits sixteen pictures of held-out scenes and puts both on one sheet, the instruction beneath.

``python -m pipelines.embedded.training.editing.contact_sheet docs/edits.png --model FOLDER``
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import evaluate
from pipelines.embedded.training.editing.edits import OPERATIONS
from pipelines.embedded.training.editing.evaluate import editor, load_editor
from pipelines.embedded.training.editing.score import make_exam
from pipelines.embedded.training.world import Canvas

GAP, LINE = 6, 14
COUNT, COLUMNS = 16, 4


def edit_sheet(model: Path, *, size: int = 128, seed: int = 78, shown: int = 128) -> Image.Image:
    """Two of each operation, each shown before and after, enlarged to ``shown`` pixels a side."""
    pipeline = load_editor(model)
    question = evaluate.question_for(model, canvas=Canvas(size, size))
    exam = make_exam(pipeline.vae, 12 * COUNT, canvas=question.canvas, seed=seed)
    kinds = [OPERATIONS.index(pair.edit.operation) for pair in exam.pairs]
    each = COUNT // len(OPERATIONS)
    rows = [
        index
        for kind in range(len(OPERATIONS))
        for index in [i for i, own in enumerate(kinds) if own == kind][:each]
    ]
    texts = [exam.texts[index] for index in rows]
    before = exam.before[torch.tensor(rows)]
    after = editor(pipeline, question)(before, texts, 0)
    width, height = 2 * shown + 3 * GAP, shown + LINE + 2 * GAP
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, lines * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, text in enumerate(texts):
        row, column = divmod(place, COLUMNS)
        left, top = column * width + GAP, row * height + GAP
        for offset, pictures in ((0, before), (shown + GAP // 2, after)):
            sheet.paste(_image(pictures[place], shown), (left + offset, top))
        pen.text((left, top + shown + 2), text or "(empty)", fill="black")
    return sheet


def _image(picture: Tensor, shown: int) -> Image.Image:
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((shown, shown), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR)
    parser.add_argument("--size", type=int, default=128, help="pixels on each side")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    edit_sheet(arguments.model, size=arguments.size).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
