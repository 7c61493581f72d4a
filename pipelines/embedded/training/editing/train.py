"""Teaches a model that draws to edit by instruction as well, and to draw more cleanly.

    python -m pipelines.embedded.training.editing.train --begin-with MODEL --out output/shapes-2

``MODEL`` is a folder in the FLUX.1 format, or a checkpoint that this command left (its autoencoder
may be missing: then the carried model's is used). The output folder is made in three steps, each of
which is skipped where its result lies there already: ``text`` (both encoders learn instructions),
``flow`` (the transformer, resumable at any time) and the model folder. Safetensors and JSON only.
"""

import argparse
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import save_file

from pipelines.embedded import EMBEDDED_MODEL_DIR, EMBEDDED_MODEL_NAME
from pipelines.embedded.training import loop, world
from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.editing import instructions
from pipelines.embedded.training.editing.batches import DRAWINGS, EDITS, Batches, Examples
from pipelines.embedded.training.editing.coupling import coupled_noise
from pipelines.embedded.training.editing.pairs import Store
from pipelines.embedded.training.editing.progress import Progress
from pipelines.embedded.training.editing.train_text import STEPS, train_instructions
from pipelines.embedded.training.editing.velocity import edit_velocity, forget_guidance
from pipelines.embedded.training.export import export
from pipelines.embedded.training.flow import Prompts, autocast
from pipelines.embedded.training.tokenizers import build_t5_tokenizer
from pipelines.embedded.training.train_text import load_encoders

logger = logging.getLogger(__name__)

EDIT_WEIGHT = 0.5
"""Of the loss of edits; drawings have the rest."""

GROWING_SHARE = 0.2
"""At most this part of the time goes into new pictures."""

PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train and for how long.

    ``scale`` multiplies the examples of a step; ``hold`` is the part of the time after which the
    rates fall to nothing; a checkpoint is saved every ``save_every`` seconds and a row added to the
    curve every ``evaluate_every``.
    """

    out: Path
    minutes: float
    device: str = "cpu"
    ranks: int = 1
    scale: float = 1.0
    rate: float = 1.0
    hold: float = 0.6
    save_every: float = 120.0
    evaluate_every: float = 600.0
    seed: int = 4

    def job(self) -> loop.Job:
        return loop.Job(
            run=self.out,
            phase="flow",
            minutes=self.minutes,
            device=self.device,
            ranks=self.ranks,
            batch=round(self.scale * (EDITS + DRAWINGS)),
            start=self.out / "flow" / "start.safetensors",
            rate=self.rate,
            seed=self.seed,
        )


def prepare(model: Path, out: Path, *, text_steps: int = STEPS) -> None:
    """Lay out what the flow begins with: the autoencoder, the encoders, the transformer."""
    whole = model if (model / "vae").exists() else EMBEDDED_MODEL_DIR
    if not (out / "vae" / "config.json").exists():
        shutil.copytree(whole / "vae", out / "vae", dirs_exist_ok=True)
    if not (out / "text" / "training.json").exists():
        known = load_encoders(model).t5_tokenizer.get_vocab()
        if known == build_t5_tokenizer(instructions.vocabulary()).get_vocab():
            for part in PARTS:
                shutil.copytree(model / part, out / "text" / part, dirs_exist_ok=True)
            records = json.loads((model / "training.json").read_text())
            (out / "text" / "training.json").write_text(json.dumps(records["text"]) + "\n")
        else:
            train_instructions(model, out / "text", steps=text_steps)
    _carry_records(model, out)
    start = out / "flow" / "start.safetensors"
    if not start.exists():
        transformer = FluxTransformer2DModel.from_pretrained(
            model, subfolder="transformer", torch_dtype=torch.float32
        )
        forget_guidance(transformer)
        start.parent.mkdir(parents=True, exist_ok=True)
        save_file(transformer.state_dict(), start)
        for name in ("curve.json", "state.json"):
            if (model / name).exists():
                shutil.copy(model / name, start.parent / name)


def _carry_records(model: Path, out: Path) -> None:
    """Keep what is known of the model's earlier training, for the card of the next."""
    path = model / "training.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    for phase, name in (("vae", "training.json"), ("flow", "before.json")):
        (out / phase).mkdir(parents=True, exist_ok=True)
        if phase in records and not (out / phase / name).exists():
            (out / phase / name).write_text(json.dumps(records[phase], indent=1) + "\n")


def train(plan: Plan) -> None:
    """Train the transformer on all ranks until the time is spent."""
    if plan.ranks == 1:
        _train_rank(0, plan)
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29518")
    mp.spawn(_train_rank, args=(plan,), nprocs=plan.ranks)  # type: ignore[attr-defined]


class Trainer:
    """One rank's transformer, examples and counts."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._plan, job = plan, plan.job()
        self.trainee = loop.Trainee(job)
        guidance = self.trainee.transformer.time_text_embed.guidance_embedder
        guidance.requires_grad_(False)  # it says nothing, and shall not begin to
        self.vae = AutoencoderKL.from_pretrained(plan.out / "vae", torch_dtype=torch.float32)
        self.vae.eval().requires_grad_(False).to(plan.device)  # pyright: ignore[reportArgumentType]
        self.encoders = load_encoders(plan.out / "text")
        for encoder in (self.encoders.clip, self.encoders.t5):
            encoder.requires_grad_(False).to(plan.device)  # type: ignore[call-overload]
        self.store = Store(
            plan.out / "pairs", self.vae, device=plan.device, rank=rank, ranks=plan.ranks
        )
        state = _state(plan)
        self.samples, self.edits = state["samples"], state["edits"]
        seed = plan.seed + int(self.samples)  # an interrupted run goes on with other examples
        share = plan.scale / plan.ranks
        self.batches = Batches(self.store, self.encoders, seed=seed, rank=rank, share=share)
        self._noise = torch.Generator().manual_seed(seed + 7 * rank + 1)
        self._growing, self._started = 0.0, time.monotonic()
        self.losses: dict[str, list[float]] = {"edit": [], "draw": []}

    def grow(self) -> None:
        """Make new pictures while that has had less than its part of the time."""
        for canvas in world.CANVASES:
            if not self.store.shards(canvas):
                self.store.grow(canvas)
                self._started = time.monotonic()
        canvas = self.store.scarcest()
        if canvas and self._growing < GROWING_SHARE * (time.monotonic() - self._started):
            before = time.monotonic()
            self.store.grow(canvas)
            self._growing += time.monotonic() - before

    def step(self, factor: float) -> None:
        """One step on edits and drawings, at ``factor`` of the rates."""
        edits, drawings = self.batches.edits(), self.batches.drawings()
        for kind, examples, weight in (
            ("edit", edits, EDIT_WEIGHT),
            ("draw", drawings, 1 - EDIT_WEIGHT),
        ):
            loss = flow_loss(self.trainee.transformer, examples, self._noise, self._plan.device)
            (weight * loss).backward()
            self.losses[kind].append(loss.item())
        self.trainee.update(factor, self._plan.ranks)
        self.samples += self._plan.ranks * (len(edits.clean) + len(drawings.clean))
        self.edits += self._plan.ranks * len(edits.clean)


def flow_loss(
    transformer: FluxTransformer2DModel, examples: Examples, generator: torch.Generator, device: str
) -> torch.Tensor:
    """Mean squared error of the velocity."""
    clean = examples.clean
    noise = torch.randn(clean.shape, generator=generator)
    noise = coupled_noise(examples.jitter, examples.coupled, noise)
    xt = torch.lerp(clean, noise, examples.t[:, None, None]).to(device)
    reference = None if examples.reference is None else examples.reference.to(device)
    prompts = Prompts(
        pooled=examples.prompts.pooled.to(device), tokens=examples.prompts.tokens.to(device)
    )
    with autocast(device):
        v = edit_velocity(
            transformer, examples.canvas, xt, examples.t.to(device), prompts, reference
        )
    return (v - (noise - clean).to(device)).square().mean()


def _train_rank(rank: int, plan: Plan) -> None:
    if plan.ranks > 1:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=plan.ranks)
    torch.set_flush_denormal(True)
    torch.manual_seed(plan.seed)
    trainer = Trainer(plan, rank)
    report = _Report(plan, trainer) if rank == 0 else None
    trainer.grow()
    budget = Budget(minutes=plan.minutes)
    while (fraction := loop.agree(budget.fraction(), plan.ranks)) < 1:
        trainer.grow()
        trainer.step(annealed(fraction, hold=plan.hold))
        if report:
            report.after_step(budget.seconds())
    if report:
        report.finish(budget.seconds())
    if plan.ranks > 1:
        dist.destroy_process_group()


class _Report:
    """Saves checkpoints and the curve, beside each other."""

    def __init__(self, plan: Plan, trainer: Trainer) -> None:
        self._plan, self._trainer = plan, trainer
        folder = plan.out / "flow"
        self._progress = Progress(trainer.vae, trainer.encoders, folder / "curve.json", plan.device)
        self._before = _state(plan)["seconds"]
        self._next_save, self._next_row = plan.save_every, plan.evaluate_every
        self._state = folder / "state.json"

    def after_step(self, seconds: float) -> None:
        if seconds >= self._next_save:
            self._next_save = seconds + self._plan.save_every
            self._save(seconds)
        if seconds >= self._next_row:
            self._next_row = seconds + self._plan.evaluate_every
            self._add_row(seconds)

    def finish(self, seconds: float) -> None:
        """Save and evaluate for the last time, and leave the record that the card reads."""
        self._save(seconds)
        self._add_row(seconds)
        record: dict[str, object] = {**self._counts(seconds), "curve": self._progress.rows}
        before = self._plan.out / "flow" / "before.json"
        if before.exists():
            record["before"] = json.loads(before.read_text())
        text = json.dumps(record, indent=1)
        (self._plan.out / "flow" / "training.json").write_text(text + "\n")

    def _save(self, seconds: float) -> None:
        path = self._plan.job().checkpoint
        written = path.with_suffix(".part")
        save_file(self._trainer.trainee.average.state_dict(), written)
        written.rename(path)
        self._state.write_text(json.dumps(self._counts(seconds)) + "\n")
        losses = {kind: values[-50:] for kind, values in self._trainer.losses.items()}
        means = {kind: round(sum(v) / max(len(v), 1), 4) for kind, v in losses.items()}
        logger.info("flow %s %s", self._counts(seconds), means)

    def _add_row(self, seconds: float) -> None:
        losses = self._trainer.losses
        means = {f"loss_{k}": round(sum(v) / max(len(v), 1), 4) for k, v in losses.items()}
        self._progress.add(self._trainer.trainee.average, self._counts(seconds) | means)
        logger.info("flow %s", self._progress.rows[-1])
        for values in losses.values():
            values.clear()

    def _counts(self, seconds: float) -> dict[str, float]:
        return {
            "seconds": round(self._before + seconds),
            "samples": self._trainer.samples,
            "edits_seen": self._trainer.edits,
            "pictures": self._trainer.store.pictures(),
        }


def _state(plan: Plan) -> dict[str, float]:
    """The counts that an earlier run left."""
    path = plan.out / "flow" / "state.json"
    if not path.exists():
        return {"seconds": 0, "samples": 0, "edits": 0}
    state = json.loads(path.read_text())
    return {"seconds": state["seconds"], "samples": state["samples"], "edits": state["edits_seen"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--begin-with", type=Path, default=EMBEDDED_MODEL_DIR, help="a folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=120.0, help="of training the transformer")
    parser.add_argument("--out", type=Path, default=Path("output/shapes-2"))
    parser.add_argument("--ranks", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--scale", type=float, default=1.0, help="times the examples of a step")
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual learning rates")
    parser.add_argument("--hold", type=float, default=0.6, help="until the rates fall, of the time")
    parser.add_argument("--text-steps", type=int, default=STEPS)
    parser.add_argument("--evaluate-every", type=float, default=600.0, help="seconds")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    prepare(arguments.begin_with, arguments.out, text_steps=arguments.text_steps)
    plan = Plan(
        out=arguments.out,
        minutes=arguments.minutes,
        device=arguments.device,
        ranks=arguments.ranks,
        scale=arguments.scale,
        rate=arguments.rate,
        hold=arguments.hold,
        evaluate_every=arguments.evaluate_every,
    )
    train(plan)
    export(arguments.out, arguments.out / EMBEDDED_MODEL_NAME)


if __name__ == "__main__":
    main()
