"""What skipping steps costs in quality, against plain schedules of fewer steps.

    python -m benchmarks.skipping [--n 100] [--steps 10]

Held-out prompts of one and of two objects through the model that Sluice carries, 64x64, fixed
seeds. Adherence is the share of pictures that the pixel checker reads as their prompt; PSNR is
against the pictures of the full schedule, its mean over pictures, in dB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from benchmarks.report import device_name, print_json, print_table, save_json
from pipelines import skipping
from pipelines.catalog import find
from pipelines.contracts import (
    Conditioning,
    DecodedImage,
    LatentJob,
    SamplingParams,
    TextPrompt,
)
from pipelines.embedded.training import checker
from pipelines.embedded.training.evaluate import held_out_prompts
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.trajectory import Trajectory
from pipelines.stages.vae_decoder import VaeDecoderStage

SPEC = find("sluice-shapes")
_BATCH = 32


class Case(NamedTuple):
    """A way to draw: of `steps`, some may be skipped, with `share` of the slope as forecast."""

    name: str
    steps: int
    skips: bool = False
    share: float = 0.0

    @property
    def forwards(self) -> int:
        return skipping.num_forwards(self.steps, skips_steps=self.skips)


class Row(NamedTuple):
    """Forwards, shares of right pictures and PSNR in dB, for one and for two objects."""

    forwards: int
    one_object: float
    two_objects: float
    psnr_one: float
    psnr_two: float


class Studio:
    """The stages, and the prompts with their scenes: n of one object and n of two."""

    def __init__(self, n: int) -> None:
        encoder = TextEncoderStage.load(SPEC.source)
        self._denoiser = DenoiserStage.load(SPEC.source)
        self._decoder = VaeDecoderStage.load(SPEC.source)
        self.codes: list[torch.Tensor] = []
        self._texts: list[list[Conditioning]] = []
        for objects in (1, 2):
            codes, prompts = held_out_prompts(n, objects=objects)
            length = SPEC.max_sequence_length
            asked = [TextPrompt(prompt=text, max_sequence_length=length) for text in prompts]
            self.codes.append(codes)
            self._texts.append(encoder.encode(asked))

    def draw(self, case: Case) -> list[torch.Tensor]:
        """Pictures (n, 3, h, w) in [0, 1] of one object, and of two."""
        return [self._draw(case, texts, 10_000 * i) for i, texts in enumerate(self._texts, 1)]

    def _draw(self, case: Case, texts: Sequence[Conditioning], seed: int) -> torch.Tensor:
        pictures: list[torch.Tensor] = []
        for start in range(0, len(texts), _BATCH):
            works = [
                self._admit(case, seed + start + i, text)
                for i, text in enumerate(texts[start : start + _BATCH])
            ]
            for _ in range(case.forwards):
                self._denoiser.tick(works)
            images = self._decoder.decode([self._denoiser.finish(work) for work in works])
            pictures += [_pixels(image) for image in images]
        return torch.stack(pictures)

    def _admit(self, case: Case, seed: int, text: Conditioning) -> Trajectory:
        """A trajectory that forecasts with the case's share of the slope instead of ours."""
        work = self._denoiser.admit(_job(case, seed), text, None)
        scale = case.share / skipping.FORECAST_SHARE
        shares = tuple(scale * share for share in work.schedule.forecasts)
        work.schedule = replace(work.schedule, forecasts=shares)
        return work


def _job(case: Case, seed: int) -> LatentJob:
    return LatentJob(
        work_id=str(seed),
        group="benchmark",
        sampling=SamplingParams(
            height=SPEC.height,
            width=SPEC.width,
            num_inference_steps=case.steps,
            guidance_scale=SPEC.guidance_scale,
            seed=seed,
            skips_steps=case.skips,
        ),
    )


def _pixels(image: DecodedImage | Exception) -> torch.Tensor:
    if isinstance(image, Exception):
        raise image
    return torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255


def psnr(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over pictures, in dB. Equal pictures count as 60 dB, what rounding leaves."""
    error = (images - reference).square().flatten(1).mean(dim=1).clamp_min(1e-6)
    return float((-10 * error.log10()).mean())


def cases(steps: int) -> list[Case]:
    """The full schedule first; then fewer steps, and the skip plan with forecasts of all kinds."""
    share = skipping.FORECAST_SHARE
    forwards = skipping.num_forwards(steps, skips_steps=True)
    return [
        Case(f"all {steps} steps", steps),
        Case("half the steps", steps // 2),
        Case("as many forwards, evenly", forwards),
        Case("skipping, last velocity reused", steps, True),
        Case(f"skipping, {share:.0%} of the slope", steps, True, share),
        Case("skipping, all of the slope", steps, True, 1.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="prompts of each kind")
    parser.add_argument("--steps", type=int, default=SPEC.num_inference_steps)
    parser.add_argument("--save", action="store_true", help="keep the values as a file")
    arguments = parser.parse_args()
    studio = Studio(arguments.n)
    rows: dict[str, Row] = {}
    reference: list[torch.Tensor] = []
    for case in cases(arguments.steps):
        images = studio.draw(case)
        reference = reference or images
        right = [
            float(checker.judge(drawn, codes).all.float().mean())
            for drawn, codes in zip(images, studio.codes, strict=True)
        ]
        near = [psnr(*pair) for pair in zip(images, reference, strict=True)]
        rows[case.name] = Row(case.forwards, *right, *near)
    title = f"{arguments.n} prompts each, {arguments.steps} steps"
    columns = ("", "forwards", "one object", "two objects", "PSNR, one", "PSNR, two")
    shown = [
        (name, row.forwards, *(f"{x:.0%}" for x in row[1:3]), *(f"{x:.1f}" for x in row[3:]))
        for name, row in rows.items()
    ]
    print_table(title, columns, shown)
    values: dict[str, Any] = {name: row._asdict() for name, row in rows.items()}
    values = {"n": arguments.n, "steps": arguments.steps, "cases": values}
    if arguments.save:
        save_json(f"skipping-{arguments.steps}", values, device=device_name())
    print_json(values)


if __name__ == "__main__":
    main()
