"""The training loop of the transformer, for the flow and for its distillation.

On a CPU several processes of one thread each share every batch (gloo), which uses the cores better
than one process of several threads. Muon on the blocks' matrices, AdamW on the rest, and what is
kept is an exponential moving average of the weights.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.embedded.training import world
from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.evaluator import Evaluator, View
from pipelines.embedded.training.flow import ShortAttention, build_transformer
from pipelines.embedded.training.latents import Examples, load_examples
from pipelines.embedded.training.muon import Muon

logger = logging.getLogger(__name__)

EMA_DECAY = 0.996
MUON_RATE, ADAMW_RATE = 2e-3, 1.5e-3
CHECKPOINT = "checkpoint.safetensors"
FIRST_SHARES, LAST_SHARES = (0.44, 0.12, 0.12, 0.14, 0.18), (0.2, 0.13, 0.13, 0.2, 0.34)
"""How often a step has the size of each of ``world.CANVASES``, at first and from half time on."""

EVALUATED = ((world.CANVASES[0], 96), (world.CANVASES[1], 24), (world.CANVASES[4], 24))
"""The sizes of which the learning curve has figures, and from how many pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One phase of training the transformer.

    ``run / phase`` is the folder it writes to; ``start`` the weights it begins with, if any;
    ``rate`` scales both learning rates; ``views`` are the ways of drawing that are evaluated every
    ``evaluate_every`` seconds, each adding a row to the learning curve.
    """

    run: Path
    phase: str
    minutes: float
    device: str
    ranks: int
    batch: int
    start: Path | None = None
    rate: float = 1.0
    seed: int = 4
    views: tuple[View, ...] = (View(),)
    evaluate_every: float = 300.0

    @property
    def checkpoint(self) -> Path:
        return self.run / self.phase / CHECKPOINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples of one size: ``picks`` (n,) int64 are indices of ``examples``."""

    canvas: world.Canvas
    examples: Examples
    picks: Tensor


class Batches:
    """What an objective may use: the examples, this rank's share of a batch, its randomness."""

    def __init__(self, job: Job, rank: int) -> None:
        self.generator = torch.Generator().manual_seed(job.seed + 1000 * (rank + 1))
        self.device = job.device
        self._sizes = torch.Generator().manual_seed(job.seed)  # ranks agree on every step's size
        self._examples = [load_examples(job.run, canvas) for canvas in world.CANVASES]
        self._default_n = job.batch // job.ranks

    def draw(self, *, two_objects: float, fraction: float) -> Batch:
        """Fresh examples of one size, so large a share of them with two objects.

        ``fraction`` of the time is spent: the more it is, the larger the pictures.
        """
        first, last = torch.tensor(FIRST_SHARES), torch.tensor(LAST_SHARES)
        shares = torch.lerp(first, last, min(1.0, 2 * fraction))
        index = int(torch.multinomial(shares, 1, generator=self._sizes))
        canvas, examples = world.CANVASES[index], self._examples[index]
        text = examples.tokens.shape[1]
        # As many as cost the same as the default size.
        n = self._default_n * (world.CANVASES[0].tokens + text) // (canvas.tokens + text)
        n_two = round(n * two_objects)
        picks = []
        for two, count in ((False, n - n_two), (True, n_two)):
            kind = torch.nonzero(examples.two == two).flatten()
            picks.append(kind[torch.randint(len(kind), (count,), generator=self.generator)])
        return Batch(canvas=canvas, examples=examples, picks=torch.cat(picks))


class Outcome(NamedTuple):
    """The loss, and from how many examples."""

    loss: Tensor
    n: int


Objective = Callable[[FluxTransformer2DModel, float], Outcome]
"""The outcome for a transformer on a fresh batch, at a fraction of the time budget."""


def train(job: Job, objective_for: Callable[[Job, Batches], Objective]) -> None:
    """Run the job on all its ranks, until its time is spent."""
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if job.ranks == 1:
        _train_rank(0, job, objective_for)
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    mp.spawn(_train_rank, args=(job, objective_for), nprocs=job.ranks)  # type: ignore[attr-defined]


def _train_rank(rank: int, job: Job, objective_for: Callable[[Job, Batches], Objective]) -> None:
    if job.ranks > 1:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=job.ranks)
    torch.manual_seed(job.seed)  # the same weights on every rank
    trainee = Trainee(job)
    objective = objective_for(job, Batches(job, rank))
    curve = Curve(job) if rank == 0 else None
    budget = Budget(minutes=job.minutes)
    while (fraction := agree(budget.fraction(), job.ranks)) < 1:
        outcome = objective(trainee.transformer, fraction)
        outcome.loss.backward()
        trainee.update(annealed(fraction, hold=0.3), job.ranks)
        if curve:
            curve.after_step(trainee, outcome, budget.seconds())
    if curve:
        curve.finish(trainee, budget.seconds())
    if job.ranks > 1:
        dist.destroy_process_group()


class Trainee:
    """The transformer in training, its moving average and its optimizers."""

    def __init__(self, job: Job) -> None:
        self.transformer = build_transformer()
        start = job.checkpoint if job.checkpoint.exists() else job.start
        if start:
            self.transformer.load_state_dict(load_file(start))
        self.transformer.to(job.device)  # pyright: ignore[reportArgumentType]
        self.transformer.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
        self.average = build_transformer()
        self.average.to(job.device)  # pyright: ignore[reportArgumentType]
        self.average.load_state_dict(self.transformer.state_dict())
        self.steps = 0
        named = list(self.transformer.named_parameters())
        matrices = [p for name, p in named if _is_block_matrix(name, p)]
        others = [p for name, p in named if not _is_block_matrix(name, p)]
        self._rates = (MUON_RATE * job.rate, ADAMW_RATE * job.rate)
        self._optimizers = (
            Muon(matrices, lr=self._rates[0]),
            torch.optim.AdamW(others, lr=self._rates[1], betas=(0.9, 0.98), weight_decay=0.01),
        )

    def update(self, factor: float, ranks: int) -> None:
        """Share gradients, step both optimizers at ``factor`` of their rates, move the average."""
        if ranks > 1:
            share_gradients(self.transformer, ranks)
        torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(EMA_DECAY, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            averages, weights = self.average.parameters(), self.transformer.parameters()
            torch._foreach_lerp_(list(averages), list(weights), 1 - decay)
        self.steps += 1


class Curve:
    """The learning curve: evaluates now and then, leaves checkpoints and, at the end, a record.

    A curve that an interrupted run left beside its checkpoint is carried on.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._evaluators = [
            Evaluator(job.run, n=n, device=job.device, canvas=canvas) for canvas, n in EVALUATED
        ]
        self._losses: list[float] = []
        self._path = job.checkpoint.with_name("curve.json")
        resumed = job.checkpoint.exists() and self._path.exists()
        self._rows: list[dict[str, float]] = json.loads(self._path.read_text()) if resumed else []
        self._before = self._rows[-1] if self._rows else {"seconds": 0, "samples": 0}
        self._samples = int(self._before["samples"])
        self._next = job.evaluate_every

    def after_step(self, trainee: Trainee, outcome: Outcome, seconds: float) -> None:
        """Note the loss; evaluate when it is time."""
        self._losses.append(outcome.loss.item())
        self._samples += outcome.n * self._job.ranks
        if seconds >= self._next:
            self._next = seconds + self._job.evaluate_every
            self._add_row(trainee, seconds)

    def finish(self, trainee: Trainee, seconds: float) -> None:
        """Evaluate for the last time and write ``training.json``."""
        self._add_row(trainee, seconds)
        record = {key: self._rows[-1][key] for key in ("samples", "seconds")}
        text = json.dumps(record | {"curve": self._rows}, indent=1)
        (self._job.checkpoint.parent / "training.json").write_text(text + "\n")

    def _add_row(self, trainee: Trainee, seconds: float) -> None:
        save_file(trainee.average.state_dict(), self._job.checkpoint)
        row: dict[str, float] = {
            "seconds": round(self._before["seconds"] + seconds),
            "samples": self._samples,
            "loss": round(sum(self._losses) / max(len(self._losses), 1), 4),
        }
        for evaluator in self._evaluators:
            for view in self._job.views:
                shares = evaluator(trainee.average, view)
                prefix = f"{evaluator.canvas} g{view.guidance:g} cfg{view.cfg_scale:g} "
                row |= {prefix + name: share for name, share in shares._asdict().items()}
        logger.info("%s %d %s", self._job.phase, trainee.steps, row)
        self._rows.append(row)
        self._path.write_text(json.dumps(self._rows, indent=1) + "\n")
        self._losses.clear()


def share_gradients(transformer: FluxTransformer2DModel, ranks: int) -> None:
    """Replace every rank's gradients by their mean over the ranks."""
    gradients = [p.grad for p in transformer.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / ranks).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def agree(fraction: float, ranks: int) -> float:
    """The first rank's clock, so that all ranks stop at the same step."""
    if ranks == 1:
        return fraction
    clock = torch.tensor([fraction], dtype=torch.float64)
    dist.broadcast(clock, 0)
    return clock.item()


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Matrices inside blocks, without the modulations, which start at zero."""
    return parameter.ndim == 2 and "blocks." in name and ".norm" not in name
