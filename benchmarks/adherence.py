"""How often a model draws what the sentence says, counted by the pixel checker.

    python -m benchmarks.adherence [--n 500] [--size 128x128]

Held-out prompts, fixed seeds, plain ``diffusers.FluxPipeline``.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import print_json, print_table
from pipelines.embedded import EMBEDDED_MODEL_DIR
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR, help="a model folder")
    parser.add_argument("--n", type=int, default=500, help="prompts of each kind")
    parser.add_argument("--size", choices=[str(canvas) for canvas in CANVASES], default="64x64")
    parser.add_argument("--steps", type=int, help="instead of the model's default")
    parser.add_argument("--guidance", type=float, help="instead of the model's default")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--show-wrong", action="store_true", help="log some wrong pictures")
    arguments = parser.parse_args()
    if arguments.show_wrong:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    changes = {"steps": arguments.steps, "guidance": arguments.guidance, "batch": arguments.batch}
    given = {name: value for name, value in changes.items() if value is not None}
    canvas = next(canvas for canvas in CANVASES if str(canvas) == arguments.size)
    question = question_for(arguments.model, canvas=canvas, **given)
    started = time.perf_counter()
    result = asdict(evaluate(question, n=arguments.n))
    seconds = time.perf_counter() - started
    title = f"{2 * arguments.n} pictures of {question.canvas} in {seconds:.1f} s"
    rows = [(label, f"{result[name]:.1%}") for name, label in LABELS.items()]
    print_table(title, ("held-out prompts", "right"), rows)
    print_json(result)


if __name__ == "__main__":
    main()
