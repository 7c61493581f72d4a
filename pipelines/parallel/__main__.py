"""One image on several ranks, under torchrun, and by how much it differs from one rank's:

    torchrun --standalone --nproc-per-node 4 -m pipelines.parallel --tensor 2 --ulysses 2 \
        [--device cuda]
        [--model NAME] [--source FOLDER] [--dtype bfloat16] [--prompt TEXT] [--output image.png]

Prints a line of JSON. With `--alone` nothing is compared: one GPU need not hold the whole model.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.catalog import ModelSpec, find
from pipelines.contracts import GenerationParams
from pipelines.local import LocalChain
from pipelines.parallel.degrees import Degrees
from pipelines.parallel.rank import run_rank
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.team import RankSettings
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--ulysses", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--model", default="sluice-shapes")
    parser.add_argument("--source", help="the model's weights, if not where the catalogue says")
    parser.add_argument("--prompt", default="a red circle on a white background")
    parser.add_argument("--alone", action="store_true", help="without the image of one rank")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    # What torchrun says to each of its processes.
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    degrees = Degrees(tensor=options.tensor, ulysses=options.ulysses)
    if degrees.ranks != ranks:
        parser.error(f"--tensor x --ulysses is {degrees.ranks}; set --nproc-per-node to that")
    spec = find(options.model, source=options.source)
    is_cpu = options.device == "cpu"
    settings = RankSettings(
        source=spec.source,
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
        degrees=degrees,
        device="cpu" if is_cpu else f"cuda:{os.environ['LOCAL_RANK']}",
        dtype=options.dtype,
        attention=options.attention,
    )
    if rank:
        run_rank(settings, rank)
        return
    pixels, values = draw(spec, settings, options.prompt, compares=not options.alone)
    if options.output:
        Image.fromarray(pixels).save(options.output)
    print(json.dumps(values))


def draw(
    spec: ModelSpec, settings: RankSettings, prompt: str, *, compares: bool
) -> tuple[np.ndarray, dict[str, object]]:
    """The image, and what is to be said of it."""
    params = GenerationParams(
        prompt=prompt,
        height=spec.height,
        width=spec.width,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=0,
        max_sequence_length=spec.max_sequence_length,
    )
    device, dtype = settings.device, settings.dtype
    encoder = TextEncoderStage.load(spec.source, device=device, dtype=dtype)
    decoder = VaeDecoderStage.load(spec.source, device=device, dtype=dtype)
    stage = ParallelStage.start(settings)
    (image,) = LocalChain(encoder, stage, decoder).generate(params)
    received = dict(stage.team.mesh.received)
    stage.close()
    values: dict[str, object] = {
        "tensor": settings.degrees.tensor,
        "ulysses": settings.degrees.ulysses,
        "received_by_rank_0": received,
    }
    if compares:
        one = DenoiserStage.load(
            spec.source, device=device, dtype=dtype, attention=settings.attention
        )
        (alone,) = LocalChain(encoder, one, decoder).generate(params)
        levels = np.abs(image.pixels.astype(int) - alone.pixels.astype(int))
        values["max_abs_diff"] = int(levels.max())
        values["identical_share"] = float((levels == 0).mean())
    return image.pixels, values


if __name__ == "__main__":
    main()
