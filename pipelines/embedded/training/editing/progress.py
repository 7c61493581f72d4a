"""The learning curve of a model that draws and edits: a row of figures now and then.

The same held-out scenes and the same noise each time, few enough to take seconds.
"""

import json
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from pipelines.embedded.training import captions, checker, world
from pipelines.embedded.training.editing.batches import encode_texts
from pipelines.embedded.training.editing.fidelity import fidelity, quantiles
from pipelines.embedded.training.editing.score import Exam, make_exam, score
from pipelines.embedded.training.editing.velocity import sample_edit
from pipelines.embedded.training.flow import CHANNELS, Prompts
from pipelines.embedded.training.latents import decode_latents, encode_images
from pipelines.embedded.training.train_text import TextEncoders
from pipelines.embedded.training.world import Canvas

EDITS = 64
DRAWINGS = ((world.CANVASES[0], 32), (world.CANVASES[1], 8), (world.CANVASES[4], 16))
"""How many edits are counted, and how many drawings of which sizes."""


class Progress:
    """Rows of a curve, kept in a file; an interrupted run's are carried on."""

    def __init__(self, vae: AutoencoderKL, encoders: TextEncoders, path: Path, device: str) -> None:
        self._vae, self._encoders, self._path, self._device = vae, encoders, path, device
        self._exam = make_exam(vae, EDITS)
        self.rows: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []

    def add(self, transformer: FluxTransformer2DModel, counts: dict[str, float]) -> None:
        """Evaluate and append a row to the file."""
        row = counts | self._edits(transformer, self._exam)
        for canvas, n in DRAWINGS:
            row |= self._drawings(transformer, canvas, n)
        self.rows.append(row)
        self._path.write_text(json.dumps(self.rows, indent=1) + "\n")

    def _edits(self, transformer: FluxTransformer2DModel, exam: Exam) -> dict[str, float]:
        canvas = world.CANVASES[0]
        reference = encode_images(self._vae, exam.before.to(self._device))
        noise = _noise(len(exam.texts), canvas).to(self._device)
        prompts = encode_texts(self._encoders, exam.texts)
        latents = sample_edit(transformer, canvas, prompts, noise, reference)
        scores = score(exam, decode_latents(self._vae, latents, canvas).float().cpu())
        names = ("edits", "one", "two", "read", "kept", "untouched_error")
        return {name: getattr(scores, name) for name in names}

    def _drawings(
        self, transformer: FluxTransformer2DModel, canvas: Canvas, n: int
    ) -> dict[str, float]:
        codes = world.sample_codes(n, torch.Generator().manual_seed(5), held_out=True)
        sentences = captions.captions(codes, random.Random(5), plain=True)
        prompts: Prompts = encode_texts(self._encoders, [s.text for s in sentences])
        noise = _noise(n, canvas).to(self._device)
        latents = sample_edit(transformer, canvas, prompts, noise, None)
        images = decode_latents(self._vae, latents, canvas).float().cpu()
        verdict = checker.judge(images, codes)
        right = round(float(verdict.all.float().mean()), 4)
        iou = quantiles(fidelity(images[verdict.all], codes[verdict.all]).iou)
        return {f"{canvas} right": right} | {f"{canvas} {key}": v for key, v in iou.items()}


def _noise(n: int, canvas: Canvas) -> torch.Tensor:
    return torch.randn(n, canvas.tokens, CHANNELS, generator=torch.Generator().manual_seed(6))
