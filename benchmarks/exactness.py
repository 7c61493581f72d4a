"""Is our image the image of `diffusers.FluxPipeline`? Size x steps x variant.

    python -m benchmarks.exactness [--quick] [--tasks] [--save] [--url http://127.0.0.1:8000]

Variants: tiny models with random weights (dev-like with guidance embedding and dynamic shifting,
schnell-like without either, crossed) and the carried model. With --url, a running server that
serves the carried model is compared too, over HTTP. With --tasks, a row for each task that takes
pictures (`benchmarks.exact_tasks`) instead, against the diffusers pipeline that it is named after.
"""

from __future__ import annotations

import argparse
import base64
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.exact_tasks import as_json, measure_tasks
from benchmarks.report import device_name, print_json, print_table, save_json
from pipelines.catalog import ModelSpec, models
from pipelines.contracts import GenerationParams
from pipelines.local import LocalChain
from tests.oracle import Difference, compare, oracle_images
from tests.specs import tiny_spec
from tests.tiny_flux import make_tiny_flux

SIZES = [(64, 64), (64, 128), (144, 80), (256, 256)]
STEPS = [1, 4, 12]
QUICK_SIZES, QUICK_STEPS = [(64, 64), (144, 80)], [1, 4]

Draw = Callable[[GenerationParams], list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and steps")
    parser.add_argument("--tasks", action="store_true", help="tasks that take pictures")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--url", help="also compare a running server of the carried model")
    arguments = parser.parse_args()
    quiet()
    if arguments.tasks:
        report_tasks(quick=arguments.quick, saves=arguments.save)
        return
    sizes = QUICK_SIZES if arguments.quick else SIZES
    steps = QUICK_STEPS if arguments.quick else STEPS
    with tempfile.TemporaryDirectory() as folder:
        rows, differences = measure(variants(Path(folder), arguments.url), sizes, steps)
    print_table(
        "Against diffusers.FluxPipeline, float32",
        ["variant", "height x width", "steps", "max difference (levels of 255)", "identical"],
        rows,
    )
    worst = max(difference.max_abs for difference in differences)
    share = min(difference.identical for difference in differences)
    found = {"max_abs_diff": worst, "identical_share": share, "images": len(differences)}
    if arguments.save:
        print(f"saved as {save_json('exactness', found, device=device_name())}")
    print_json(found)


def report_tasks(*, quick: bool, saves: bool) -> None:
    """A row for each task, and the worst of all as JSON."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers' own use of an old name
        rows = measure_tasks(Path(folder), quick=quick)
    print_table(
        "Each task against its diffusers pipeline, float32",
        ["task", "images", "max difference of latents", "levels of 255", "identical"],
        [
            (
                name,
                row.drawn,
                f"{row.max_latent_diff:.2g}",
                row.difference.max_abs,
                f"{row.difference.identical:.5%}",
            )
            for name, row in rows.items()
        ],
    )
    found = {
        "max_abs_diff": max(row.difference.max_abs for row in rows.values()),
        "identical_share": min(row.difference.identical for row in rows.values()),
        "tasks": as_json(rows),
    }
    if saves:
        print(f"saved as {save_json('exactness-tasks', found, device=device_name())}")
    print_json(found)


def variants(folder: Path, url: str | None) -> dict[str, tuple[ModelSpec, str | None, Draw]]:
    """Name -> (model, negative prompt, how Sluice draws it)."""
    carried = next(iter(models().values()))
    cases: dict[str, tuple[ModelSpec, str | None, Draw]] = {}
    for guided in (True, False):
        for dynamic in (True, False):
            name = (
                f"{'guidance' if guided else 'no guidance'}, {'dynamic' if dynamic else 'static'}"
            )
            source = make_tiny_flux(folder / name, guidance_embeds=guided, dynamic_shifting=dynamic)
            spec = tiny_spec(source, guidance_embeds=guided)
            cases[name] = (spec, None, in_process(spec))
            if guided == dynamic:
                cases[f"{name}, true CFG"] = (spec, "a dog", cases[name][2])
    cases["carried model"] = (carried, None, in_process(carried))
    cases["carried model, true CFG"] = (carried, "a blue square", cases["carried model"][2])
    if url:
        cases["carried model, served"] = (carried, None, over_http(url))
        cases["carried model, served, true CFG"] = (carried, "a blue square", over_http(url))
    return cases


def measure(
    cases: dict[str, tuple[ModelSpec, str | None, Draw]],
    sizes: list[tuple[int, int]],
    steps: list[int],
) -> tuple[list[tuple[object, ...]], list[Difference]]:
    """One row per variant, size and step count."""
    rows: list[tuple[object, ...]] = []
    differences: list[Difference] = []
    for name, (spec, negative, draw) in cases.items():
        for height, width in sizes:
            for count in steps:
                params = replace(
                    params_of(spec, negative), height=height, width=width, num_inference_steps=count
                )
                (ours,), (theirs,) = draw(params), oracle_images(spec.source, params)
                difference = compare(ours, theirs)
                differences.append(difference)
                share = f"{difference.identical:.5%}"
                rows.append((name, f"{height} x {width}", count, difference.max_abs, share))
    return rows, differences


def params_of(spec: ModelSpec, negative: str | None) -> GenerationParams:
    """A prompt that both the tiny models and the carried one know words of."""
    return GenerationParams(
        prompt="a red circle on the left of a blue square",
        negative_prompt=negative,
        true_cfg_scale=2.0 if negative else 1.0,
        height=spec.height,
        width=spec.width,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=3,
        max_sequence_length=spec.max_sequence_length,
    )


def in_process(spec: ModelSpec) -> Draw:
    """Draw with the chain in this process."""
    chain = LocalChain.load(spec)
    return lambda params: [image.pixels for image in chain.generate(params)]


def over_http(url: str) -> Draw:
    """Draw by the API of a running server."""

    def draw(params: GenerationParams) -> list[np.ndarray]:
        body = {
            "prompt": params.prompt,
            "size": f"{params.width}x{params.height}",
            "num_inference_steps": params.num_inference_steps,
            "guidance_scale": params.guidance_scale,
            "seed": params.seed,
            "response_format": "b64_json",
        }
        if params.negative_prompt is not None:
            body |= {
                "negative_prompt": params.negative_prompt,
                "true_cfg_scale": params.true_cfg_scale,
            }
        answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=120)
        answer.raise_for_status()
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))]

    return draw


def quiet() -> None:
    """Keep the libraries' progress bars and advice out of the table."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
