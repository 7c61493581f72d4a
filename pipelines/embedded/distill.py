"""Phase *distill*: guidance moves into the model, so that a plain call draws guided pictures.

The student is told a guidance g and learns the teacher's guided velocity, v0 + g (v - v0) with v0
for the empty prompt, in one pass instead of two. For the empty prompt itself it learns v0, so that
true classifier-free guidance with a negative prompt still works.
"""

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from pipelines.embedded import loop
from pipelines.embedded.evaluator import View
from pipelines.embedded.flow import ShortAttention, build_transformer, draw_times, velocity
from pipelines.embedded.train_flow import BATCH, CAPTION_DROPOUT, autocast, prompts_of

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
        views=(View(1.0, 1.0), View(2.0, 1.0), View(3.5, 1.0)),
        evaluate_every=120.0,
    )
    loop.train(job, distill_objective)


def distill_objective(job: loop.Job, batch: loop.Batch) -> loop.Objective:
    """Mean squared distance from the teacher's guided velocity, at random times and guidances."""
    assert job.start is not None
    teacher = build_transformer().to(job.device).requires_grad_(False)
    teacher.load_state_dict(load_file(job.start))
    teacher.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
    nothing = torch.zeros(1, dtype=torch.int64)

    def loss(student: FluxTransformer2DModel, fraction: float) -> Tensor:
        picks = batch.draw(two_objects=0.6)
        x0 = batch.examples.latents[picks].float()
        n, noise = len(x0), torch.randn(x0.shape, generator=batch.generator)
        t = draw_times(n, batch.generator).to(job.device)
        xt = torch.lerp(x0.to(job.device), noise.to(job.device), t[:, None, None])
        dropped = torch.rand(n, generator=batch.generator) < CAPTION_DROPOUT
        prompts = prompts_of(batch.examples, picks, dropped, job.device)
        empty = prompts_of(batch.examples, nothing.expand(n), torch.ones(n) > 0, job.device)
        span = MAX_GUIDANCE - MIN_GUIDANCE
        guidance = MIN_GUIDANCE + span * torch.rand(n, generator=batch.generator).to(job.device)
        one = torch.ones(n, device=job.device)
        with autocast(job.device):
            with torch.no_grad():
                v0 = velocity(teacher, xt, t, empty, one)
                v = velocity(teacher, xt, t, prompts, one)
            guided = v0 + guidance[:, None, None] * (v - v0)
            learnt = velocity(student, xt, t, prompts, guidance)
        return (learnt - guided).square().mean()

    return loss
