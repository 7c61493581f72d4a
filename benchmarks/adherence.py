"""How often a model draws what the sentence says: a table, and one JSON line at the end.

``python benchmarks/adherence.py --n 500``
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.embedded import EMBEDDED_MODEL_DIR  # noqa: E402
from pipelines.embedded.evaluate import evaluate, question_for  # noqa: E402

LABELS = {
    "one_object": "one object: all right",
    "one_shape": "  shape",
    "one_colour": "  colour",
    "one_background": "  background",
    "two_objects": "two objects: all right",
    "two_shapes": "  both shapes",
    "two_colours": "  both colours",
    "two_background": "  background",
    "two_layout": "  relation",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL_DIR, help="a model folder")
    parser.add_argument("--n", type=int, default=500, help="prompts of each kind")
    parser.add_argument("--steps", type=int, help="instead of the model's default")
    parser.add_argument("--guidance", type=float, help="instead of the model's default")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--write", action="store_true", help="store evaluation.json in the folder")
    parser.add_argument("--show-wrong", action="store_true", help="log some wrong pictures")
    arguments = parser.parse_args()
    if arguments.show_wrong:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    changes = {"steps": arguments.steps, "guidance": arguments.guidance, "batch": arguments.batch}
    given = {name: value for name, value in changes.items() if value is not None}
    started = time.perf_counter()
    evaluation = evaluate(question_for(arguments.model, **given), n=arguments.n)
    seconds = time.perf_counter() - started
    result = evaluation.as_dict()
    for name, label in LABELS.items():
        print(f"{label:<26}{result[name]:>8.1%}")
    print(f"{2 * arguments.n} pictures in {seconds:.1f} s")
    if arguments.write:
        text = json.dumps(result, indent=1) + "\n"
        (arguments.model / "evaluation.json").write_text(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
