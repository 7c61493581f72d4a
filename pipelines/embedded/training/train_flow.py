"""Phase *flow*: the transformer learns the velocity from noise to scenes.

The first objective; ``distill.py`` has the second.
"""

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from pipelines.embedded.training import loop
from pipelines.embedded.training.flow import Prompts, autocast, draw_times, velocity

BATCH = 192
CAPTION_DROPOUT = 0.1


def train_flow(run: Path, *, minutes: float, device: str, ranks: int) -> None:
    """Train for so many minutes; write ``run/flow``. A checkpoint found there is gone on from."""
    job = loop.Job(run=run, phase="flow", minutes=minutes, device=device, ranks=ranks, batch=BATCH)
    loop.train(job, flow_objective)


def flow_objective(job: loop.Job, batches: loop.Batches) -> loop.Objective:
    """Mean squared error of the velocity at random times, some captions dropped.

    Guidance is held at 1, which is what the model then draws like: without guidance.
    """

    def outcome(transformer: FluxTransformer2DModel, fraction: float) -> loop.Outcome:
        # Mostly one object first: the shapes are learnt large before they are learnt small.
        batch = batches.draw(two_objects=min(0.5, 0.25 + fraction), fraction=fraction)
        x0 = batch.examples.latents[batch.picks].float()
        n, noise = len(x0), torch.randn(x0.shape, generator=batches.generator)
        t = draw_times(n, batches.generator)
        dropped = torch.rand(n, generator=batches.generator) < CAPTION_DROPOUT
        prompts = prompts_of(batch, dropped, job.device)
        xt = torch.lerp(x0, noise, t[:, None, None]).to(job.device)
        guidance = torch.ones(n, device=job.device)
        with autocast(job.device):
            v = velocity(transformer, batch.canvas, xt, t.to(job.device), prompts, guidance)
        return loop.Outcome((v - (noise - x0).to(job.device)).square().mean(), n)

    return outcome


def prompts_of(batch: loop.Batch, dropped: Tensor, device: str) -> Prompts:
    """The prompts of the examples, the empty prompt where ``dropped`` (n,) bool says so."""
    examples, picks = batch.examples, batch.picks
    pooled = torch.where(dropped[:, None], examples.empty_pooled, examples.pooled[picks])
    tokens = torch.where(dropped[:, None, None], examples.empty_tokens, examples.tokens[picks])
    return Prompts(pooled=pooled.float().to(device), tokens=tokens.float().to(device))
