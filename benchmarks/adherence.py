"""How often a model draws what the sentence says, how cleanly, and how well it edits.

    python -m benchmarks.adherence [--n 500] [--save]
    python -m benchmarks.adherence --size 128x128 [--n 500]

Held-out prompts, fixed seeds, plain ``diffusers.FluxPipeline``; edits of held-out scenes through
plain ``diffusers.FluxKontextPipeline``, for models that make them. With ``--size``, a table of what
is right by attribute at that size instead, and nothing about outlines and edits.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import device_name, print_json, print_table, save_json
from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training.editing.evaluate import summary
from pipelines.embedded.training.evaluate import evaluate, question_for
from pipelines.embedded.training.world import CANVASES

LABELS = {
    "one_object": "one object: all right",
    "one_shape": "- shape",
    "one_colour": "- colour",
    "one_place": "- place and size",
    "one_background": "- background",
    "two_objects": "two objects: all right",
    "two_shapes": "- both shapes",
    "two_colours": "- both colours",
    "two_relation": "- relation",
    "two_background": "- background",
}
SUMMARY = {
    "one_object": "one object: all right",
    "two_objects": "two objects: all right",
    "edits": "edits: all right, the rest untouched",
    "edit_chain5": "five edits in a row: all right",
    "iou_median_64": "64x64: overlap with the true outline, median",
    "iou_p10_64": "- tenth percentile",
    "iou_median_128": "128x128: overlap with the true outline, median",
    "iou_p10_128": "- tenth percentile",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR, help="a model folder")
    parser.add_argument("--n", type=int, default=500, help="prompts of each kind")
    parser.add_argument("--size", choices=[str(canvas) for canvas in CANVASES])
    parser.add_argument("--steps", type=int, help="instead of the model's default")
    parser.add_argument("--guidance", type=float, help="instead of the model's default")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--show-wrong", action="store_true", help="log some wrong pictures")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.save and arguments.size:
        parser.error("only the summary is saved: leave --size out")
    if arguments.show_wrong:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    changes = {"steps": arguments.steps, "guidance": arguments.guidance, "batch": arguments.batch}
    given = {name: value for name, value in changes.items() if value is not None}
    if arguments.size:
        _print_attributes(arguments.model, arguments.size, arguments.n, given)
        return
    started = time.perf_counter()
    values = summary(arguments.model, n=arguments.n, given=given)
    seconds = time.perf_counter() - started
    rows = [(label, f"{values[name]:.4g}") for name, label in SUMMARY.items() if name in values]
    print_table(f"n = {arguments.n} of each, {seconds:.0f} s", ("held-out scenes", "share"), rows)
    if arguments.save:
        print(f"saved {save_json('adherence', values, device=device_name())}")
    print_json(values)


def _print_attributes(model: Path, size: str, n: int, given: dict[str, int | float]) -> None:
    """What is right by attribute at one size."""
    canvas = next(canvas for canvas in CANVASES if str(canvas) == size)
    question = question_for(model, canvas=canvas, **given)
    started = time.perf_counter()
    result = asdict(evaluate(question, n=n))
    seconds = time.perf_counter() - started
    title = f"{2 * n} pictures of {question.canvas} in {seconds:.1f} s"
    rows = [(label, f"{result[name]:.1%}") for name, label in LABELS.items()]
    print_table(title, ("held-out prompts", "right"), rows)
    print_json(result)


if __name__ == "__main__":
    main()
