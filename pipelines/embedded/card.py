"""Writes the model card from the records of training and evaluation, so that its figures are theirs."""

import json
from pathlib import Path
from typing import Any

from pipelines.embedded import checker, world
from pipelines.embedded.export import folder_bytes

PHASES = {
    "vae": "autoencoder",
    "text": "text encoders",
    "flow": "transformer, flow matching",
    "distill": "transformer, guidance distillation",
}


def write_card(folder: Path) -> None:
    """Write ``README.md`` from ``sluice.json``, ``training.json`` and ``evaluation.json``."""
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
        _training(training),
        _limits(),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(folder: Path, defaults: dict[str, Any]) -> str:
    size = folder_bytes(folder) / 1e6
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


def _world() -> str:
    return f"""## What it draws

- {len(world.SHAPES)} shapes: {", ".join(world.SHAPES)}.
- {len(world.COLOURS)} colours: {", ".join(world.COLOUR_NAMES)}.
- {len(world.BACKGROUNDS)} backgrounds: {", ".join(world.BACKGROUND_NAMES)}; white if none is named.
- One object in the centre, or two: left of, right of, above, below (and other wordings of these).
- {world.SIZE}x{world.SIZE} pixels. The seed decides size and position within a few pixels.

The training data are drawn by `pipelines/embedded/world.py` and put into words by `captions.py`.
One in seven (shape, colour, background) triples and one in eleven ordered pairs of objects are held
out: no scene that contains one is trained on."""


def _accuracy(evaluation: dict[str, Any]) -> str:
    rows = [
        ("one object, all right", "one_object", "one_interval"),
        ("shape", "one_shape", None),
        ("colour", "one_colour", None),
        ("background", "one_background", None),
        ("two objects, all right", "two_objects", "two_interval"),
        ("both shapes", "two_shapes", None),
        ("both colours", "two_colours", None),
        ("background", "two_background", None),
        ("relation", "two_layout", None),
    ]
    lines = ["| held-out prompts | right | 95 % interval |", "|---|---|---|"]
    for label, key, interval in rows:
        low_high = ""
        if interval:
            low, high = evaluation[interval]
            low_high = f"{low:.1%} to {high:.1%}"
        lines.append(f"| {label} | {evaluation[key]:.1%} | {low_high} |")
    table = "\n".join(lines)
    return f"""## Accuracy

{table}

n = {evaluation["n"]} prompts of each kind, every scene held out of training, all trained wordings,
one fixed seed each, drawn by plain `FluxPipeline` with {evaluation["steps"]} steps and guidance
{evaluation["guidance"]:g}. The figures are in `evaluation.json`; `benchmarks/adherence.py` counts them anew.

A picture is right if a checker that does not know the prompt reads from its pixels exactly the
asked-for layout, shapes, colours and background. It fits every shape at many positions and sizes by
least squares; a shape counts only if it explains at least {checker.MIN_FIT:.0%} of the variance, a colour
only within {checker.MAX_COLOUR_ERROR * 255:.0f} (of 255) of the palette's. Object attributes count only
where the layout is right too. On true drawings, also blurred or noisy ones, the checker is right in
at least 99 % (`tests/pipelines/embedded`)."""


def _training(training: dict[str, Any]) -> str:
    lines = ["| phase | minutes | samples |", "|---|---|---|"]
    for phase, label in PHASES.items():
        record = training[phase]
        samples = next(record[key] for key in ("samples", "images", "captions") if key in record)
        lines.append(f"| {label} | {record['seconds'] / 60:.0f} | {samples:,} |")
    curve = ["| minutes | samples | one object | two objects | one, CFG 3 | two, CFG 3 |"]
    curve.append("|---|---|---|---|---|---|")
    for row in training["flow"]["curve"]:
        shares = [row[f"g1_cfg{scale}_{kind}"] for scale in (1, 3) for kind in ("one", "two")]
        cells = " | ".join(f"{share:.0%}" for share in shares)
        curve.append(f"| {row['seconds'] / 60:.0f} | {row['samples']:,} | {cells} |")
    phases, rows = "\n".join(lines), "\n".join(curve)
    vae = training["vae"]
    return f"""## Training

On two CPU cores that were shared with other work, from nothing
(`python -m pipelines.embedded.train`):

{phases}

The autoencoder's round trip is right for {vae["round_trip"]:.1%} of 2,000 held-out pictures. Learning curve of
the flow phase, 64 held-out prompts of each kind (so plus or minus up to 12 points), without guidance
and with true classifier-free guidance:

{rows}

`training.json` has all of it, the distillation's curve included."""


def _limits() -> str:
    return """## Limits

- It knows its own small world and nothing else; unknown words are skipped over.
- Prompts of other objects, counts, sizes or more than two objects draw something of that world.
- It was trained at 64x64 with 16 text tokens; other sizes and text lengths run but draw worse.
- It says nothing about the picture quality of large models: it is for trying and testing a server."""
