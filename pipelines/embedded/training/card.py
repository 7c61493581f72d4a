"""Writes the model card from the records of training and evaluation, so its figures are theirs.

    python -m pipelines.embedded.training.card output/embedded/sluice-shapes [--n 500]

draws held-out prompts at every trained size, counts the right ones and writes both files.
"""

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.embedded.training import checker, world
from pipelines.embedded.training.editing.evaluate import (
    edits_by_instruction,
    evaluate_edits,
    evaluate_fidelity,
)
from pipelines.embedded.training.evaluate import evaluate, question_for
from pipelines.embedded.training.export import folder_bytes

logger = logging.getLogger(__name__)

PHASES = {
    "vae": "autoencoder",
    "text": "text encoders",
    "flow": "transformer: flow matching",
    "distill": "transformer: guidance distillation",
    "decoder": "decoder, after the transformer",
}
SHOWN = ("64x64", "128x128")
"""The sizes that the learning curve shows, and outlines are measured at."""

CURVES: dict[str, dict[str, tuple[str, str]]] = {
    "drawings": {
        f"{size}, {kind} object{'s' * (kind == 'two')}": (f"{size} g1 cfg1 {kind}", "{:.0%}")
        for size in SHOWN
        for kind in ("one", "two")
    },
    "edits": {"edits": ("edits", "{:.0%}"), "untouched error": ("untouched_error", "{:.3f}")}
    | {
        f"{size}, {label}": (f"{size} {key}", form)
        for size in SHOWN
        for label, key, form in (
            ("right", "right", "{:.0%}"),
            ("overlap, median", "iou_median", "{:.3f}"),
        )
    },
}
"""Columns of the curve: a heading, the key of the rows and how it is written."""

COUNTED = {
    "drawings": """held-out prompts all right, without guidance, 48 of each kind at
64x64 and 12 of each at 128x128""",
    "edits": """64 held-out edits all right and their untouched pixels' error, and
held-out prompts, 32 at 64x64 and 16 at 128x128""",
}


def evaluate_and_write_card(folder: Path, *, n: int = 500) -> None:
    """Write ``evaluation.json``, from n prompts of each kind and a fifth at other sizes, and
    ``README.md`` from it, ``sluice.json`` and ``training.json``.
    """
    sizes = {}
    for canvas in world.CANVASES:
        share = n if canvas == world.CANVASES[0] else n // 5
        sizes[str(canvas)] = asdict(evaluate(question_for(folder, canvas=canvas), n=share))
        logger.info("%s", sizes[str(canvas)])
    default = sizes[str(world.CANVASES[0])]
    values: dict[str, Any] = {key: default[key] for key in ("one_object", "two_objects", "n")}
    values["sizes"] = sizes
    values["fidelity"] = {
        str(canvas): asdict(evaluate_fidelity(question_for(folder, canvas=canvas), n=n))
        for canvas in world.CANVASES
        if str(canvas) in SHOWN
    }
    if edits_by_instruction(folder):
        values["edits"] = asdict(evaluate_edits(question_for(folder), n=n))
    text = json.dumps(values, indent=1)
    (folder / "evaluation.json").write_text(text + "\n")
    (folder / "README.md").write_text(card(folder))


def card(folder: Path) -> str:
    """The text of the model card."""
    defaults, training, evaluation = (
        json.loads((folder / name).read_text())
        for name in ("sluice.json", "training.json", "evaluation.json")
    )
    sections = [
        _introduction(folder, defaults),
        _world(),
        _accuracy(evaluation),
        *([_fidelity(evaluation["fidelity"])] if "fidelity" in evaluation else []),
        *([_edits(evaluation["edits"])] if "edits" in evaluation else []),
        _training(training),
        _limits(),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(folder: Path, defaults: dict[str, Any]) -> str:
    size = sum(folder_bytes(folder / part) for part in _parts(folder)) / 1e6
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# {defaults["name"]} {defaults["version"]}

A very small model in the FLUX.1 format, trained from nothing, that draws coloured shapes from
sentences. It is {size:.1f} MB with its tokenizers, needs no network and no GPU, and draws in a
fraction of a second, so that a server for FLUX.1 models can be tried, tested and measured anywhere.
Weights and code are under the Apache License 2.0; no other model's weights or data were used.

```python
from diffusers import FluxPipeline
from pipelines.embedded import EMBEDDED_MODEL_DIR

pipeline = FluxPipeline.from_pretrained(EMBEDDED_MODEL_DIR)
image = pipeline(
    "a red circle to the left of a blue square on a white background",
    height={defaults["height"]},
    width={defaults["width"]},
    num_inference_steps={defaults["num_inference_steps"]},
    guidance_scale={defaults["guidance_scale"]},
    max_sequence_length={defaults["max_sequence_length"]},
).images[0]
```"""


def _parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _world() -> str:
    sizes = ", ".join(str(canvas) for canvas in world.CANVASES)
    return f"""## What it draws

- {len(world.SHAPES)} shapes: {", ".join(world.SHAPES)}.
- {len(world.COLOURS)} colours, of objects and of backgrounds: {", ".join(world.COLOUR_NAMES)}.
  The background is white if none is named.
- One object: in the centre, or small, or on a side, or in a corner.
- Two objects: left of, right of, above, below, and other wordings of these.
- Sizes in pixels (width x height): {sizes}.
- The seed decides size and position within a few pixels, the sentence all the rest.

The training data are drawn by `pipelines/embedded/training/world.py` and put into words by
`captions.py`. One in seven (shape, colour, background) triples and one in eleven ordered pairs of
objects are held out: no scene that contains one is trained on."""


def _accuracy(evaluation: dict[str, Any]) -> str:
    default, *others = evaluation["sizes"].values()
    rows = [
        ("one object, all right", "one_object", "one_interval"),
        ("its shape", "one_shape", None),
        ("its colour", "one_colour", None),
        ("its place and size", "one_place", None),
        ("background", "one_background", None),
        ("two objects, all right", "two_objects", "two_interval"),
        ("both shapes", "two_shapes", None),
        ("both colours", "two_colours", None),
        ("relation", "two_relation", None),
        ("background", "two_background", None),
    ]
    lines = [f"| {default['size']} | right | 95 % interval |", "|---|---|---|"]
    for label, key, interval in rows:
        low_high = _interval(default[interval]) if interval else ""
        lines.append(f"| {label} | {default[key]:.1%} | {low_high} |")
    sizes = ["| size | one object | 95 % | two objects | 95 % | n each |", "|---" * 6 + "|"]
    for row in others:
        one, two = _interval(row["one_interval"]), _interval(row["two_interval"])
        cells = f"{row['one_object']:.1%} | {one} | {row['two_objects']:.1%} | {two} | {row['n']}"
        sizes.append(f"| {row['size']} | {cells} |")
    colour_error = checker.MAX_COLOUR_ERROR * 255
    table, other_table = "\n".join(lines), "\n".join(sizes)
    return f"""## Accuracy

{table}

n = {default["n"]} prompts of each kind, every scene held out of training, in all trained wordings,
a fixed seed each, drawn by plain `FluxPipeline` with {default["steps"]} steps and guidance
{default["guidance"]:g}. The other sizes, counted the same way:

{other_table}

The figures are in `evaluation.json`, and `benchmarks/adherence.py` counts them anew.

A picture is right if a checker that does not know the prompt reads from its pixels exactly the
asked-for layout, shapes, colours and background. It fits every shape at many positions and sizes
by least squares; a shape counts only if it explains at least {checker.MIN_FIT:.0%} of the variance,
a colour only within {colour_error:.0f} of 255 of the palette's. An object's attributes count only
where the layout is right too. On true drawings, also blurred or noisy ones, the checker
is right in at least 99 % (`tests/pipelines/embedded`)."""


def _fidelity(fidelity: dict[str, Any]) -> str:
    lines = ["| size | overlap, median | 10th percentile | smear | objects |", "|---" * 5 + "|"]
    for size, row in fidelity.items():
        overlaps = f"{row['iou_median']:.3f} | {row['iou_p10']:.3f}"
        lines.append(f"| {size} | {overlaps} | {row['smear']:.2%} | {row['n']} |")
    table = "\n".join(lines)
    return f"""## Outlines

{table}

The overlap is the intersection over the union of an object's pixels, those nearer to its colour
than to the background's, and the best-fitting outline of the shape that was asked for. Smear is the
share of pixels that are near no colour of the scene and on no outline."""


def _edits(edits: dict[str, Any]) -> str:
    single, chain = edits["single"], edits["chain"]
    lines = ["| edits | all right |", "|---|---|"]
    for label, share in (
        ("all", single["edits"]),
        ("of one object", single["one"]),
        ("of one of two", single["two"]),
        *single["by_operation"].items(),
    ):
        lines.append(f"| {label} | {share:.1%} |")
    table, in_a_row = "\n".join(lines), ", ".join(f"{share:.0%}" for share in chain)
    return f"""## Edits

{table}

n = {single["n"]}, scenes held out before and after, through plain `FluxKontextPipeline`. An edit is
all right if the checker reads the scene that was asked for, and the mean error of untouched pixels
is at most twice the autoencoder's. Right after one, two, ... five edits in a row: {in_a_row}."""


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}"


def _training(training: dict[str, Any]) -> str:
    lines = ["| phase | minutes | samples |", "|---|---|---|"]
    for phase, label in PHASES.items():
        record: dict[str, Any] | None = training.get(phase)
        while record:
            keys = ("samples", "images", "captions")
            samples = next(record[key] for key in keys if key in record)
            lines.append(f"| {label} | {record['seconds'] / 60:.0f} | {samples:,} |")
            record = record.get("before")
            label += ", an earlier run"
    kind = "edits" if "edits" in training["flow"]["curve"][-1] else "drawings"
    columns, counted = CURVES[kind], COUNTED[kind]
    curve = [f"| minutes | samples | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for row in training["flow"]["curve"]:
        cells = " | ".join(form.format(row[key]) for key, form in columns.values())
        curve.append(f"| {row['seconds'] / 60:.0f} | {row['samples']:,} | {cells} |")
    phases, rows = "\n".join(lines), "\n".join(curve)
    trip = training["vae"][SHOWN[0]]
    return f"""## Training

On two CPU cores that were shared with other work, from nothing
(`python -m pipelines.embedded.training.train`):

{phases}

The autoencoder's round trip is right for {trip["accuracy"]:.1%} of {trip["n"]} held-out pictures.
Learning curve of the flow phase: {counted}, so these figures are rough:

{rows}

`training.json` has all of it, the distillation's curve included."""


def _limits() -> str:
    return """## Limits

- It knows its own small world and nothing else; unknown words are skipped over.
- Prompts of other objects, of counts or of more than two objects draw something of that world.
- It was trained at the sizes above with 16 text tokens; others run but draw worse.
- It says nothing about the pictures of large models: it is for trying and testing a server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=500, help="prompts of each kind")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    evaluate_and_write_card(arguments.folder, n=arguments.n)


if __name__ == "__main__":
    main()
