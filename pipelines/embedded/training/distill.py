"""Phase *distill*: guidance moves into the model, so that a plain call draws guided pictures.

The student is told a guidance g and learns the teacher's guided velocity, v0 + g (v - v0) with v0
for the empty prompt, in one pass instead of two. For the empty prompt itself it learns v0, so that
true classifier-free guidance with a negative prompt still works.
"""

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file

from pipelines.embedded.training import loop
from pipelines.embedded.training.evaluator import View
from pipelines.embedded.training.flow import (
    ShortAttention,
    autocast,
    build_transformer,
    draw_times,
    velocity,
)
from pipelines.embedded.training.train_flow import BATCH, CAPTION_DROPOUT, prompts_of

MIN_GUIDANCE, MAX_GUIDANCE = 1.0, 5.0


def distill(run: Path, *, minutes: float, device: str, ranks: int) -> None:
    """Train for so many minutes from ``run/flow``; write ``run/distill``."""
    job = loop.Job(
        run=run,
        phase="distill",
        minutes=minutes,
        device=device,
        ranks=ranks,
        batch=BATCH,
        start=run / "flow" / loop.CHECKPOINT,
        rate=0.3,
        views=(View(1.0), View(3.5)),
        evaluate_every=120.0,
    )
    loop.train(job, distill_objective)


def distill_objective(job: loop.Job, batches: loop.Batches) -> loop.Objective:
    """Mean squared distance from the teacher's guided velocity, at random times and guidances."""
    assert job.start is not None
    teacher = build_transformer().requires_grad_(False)
    teacher.load_state_dict(load_file(job.start))
    teacher.to(job.device)  # pyright: ignore[reportArgumentType]
    teacher.set_attn_processor(ShortAttention())  # type: ignore[arg-type]

    def outcome(student: FluxTransformer2DModel, fraction: float) -> loop.Outcome:
        batch = batches.draw(two_objects=0.5, fraction=1.0)
        x0 = batch.examples.latents[batch.picks].float()
        n, noise = len(x0), torch.randn(x0.shape, generator=batches.generator)
        t = draw_times(n, batches.generator).to(job.device)
        xt = torch.lerp(x0.to(job.device), noise.to(job.device), t[:, None, None])
        dropped = torch.rand(n, generator=batches.generator) < CAPTION_DROPOUT
        prompts = prompts_of(batch, dropped, job.device)
        empty = prompts_of(batch, torch.ones(n, dtype=torch.bool), job.device)
        span = MAX_GUIDANCE - MIN_GUIDANCE
        guidance = MIN_GUIDANCE + span * torch.rand(n, generator=batches.generator).to(job.device)
        one = torch.ones(n, device=job.device)
        with autocast(job.device):
            with torch.no_grad():
                v0 = velocity(teacher, batch.canvas, xt, t, empty, one)
                v = velocity(teacher, batch.canvas, xt, t, prompts, one)
            guided = v0 + guidance[:, None, None] * (v - v0)
            learnt = velocity(student, batch.canvas, xt, t, prompts, guidance)
        return loop.Outcome((learnt - guided).square().mean(), n)

    return outcome
