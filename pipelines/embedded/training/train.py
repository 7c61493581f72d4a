"""Trains the carried model from nothing, phase by phase.

    python -m pipelines.embedded.training.train --minutes 110 --out output/embedded

Each phase leaves its result in a folder of its own under ``--out`` and is skipped when that is
there already, so an interrupted run goes on with the phase it was in. All files are safetensors
or JSON.
"""

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.embedded import EMBEDDED_MODEL_NAME
from pipelines.embedded.training.card import evaluate_and_write_card
from pipelines.embedded.training.distill import distill
from pipelines.embedded.training.export import export
from pipelines.embedded.training.latents import cache_examples
from pipelines.embedded.training.train_flow import train_flow
from pipelines.embedded.training.train_text import train_text
from pipelines.embedded.training.train_vae import train_vae

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a training run lies and what it runs on; ``ranks`` are processes of one thread."""

    out: Path
    device: str
    ranks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of the whole: its share of the time, what it leaves, how it is run for minutes."""

    share: float
    result: str
    run: Callable[[Run, float], None]


def _vae(run: Run, minutes: float) -> None:
    train_vae(run.out / "vae", minutes=minutes, device=run.device)


def _text(run: Run, minutes: float) -> None:
    train_text(run.out / "text", minutes=minutes)


def _latents(run: Run, minutes: float) -> None:
    cache_examples(run.out, device=run.device)


def _flow(run: Run, minutes: float) -> None:
    train_flow(run.out, minutes=minutes, device=run.device, ranks=run.ranks)


def _distill(run: Run, minutes: float) -> None:
    distill(run.out, minutes=minutes, device=run.device, ranks=run.ranks)


def _export(run: Run, minutes: float) -> None:
    export(run.out, run.out / EMBEDDED_MODEL_NAME)


def _card(run: Run, minutes: float) -> None:
    evaluate_and_write_card(run.out / EMBEDDED_MODEL_NAME)


PHASES = {
    "vae": Phase(share=0.14, result="vae/training.json", run=_vae),
    "text": Phase(share=0.08, result="text/training.json", run=_text),
    "latents": Phase(share=0.08, result="latents/complete", run=_latents),
    "flow": Phase(share=0.6, result="flow/training.json", run=_flow),
    "distill": Phase(share=0.1, result="distill/training.json", run=_distill),
    "export": Phase(share=0, result=f"{EMBEDDED_MODEL_NAME}/sluice.json", run=_export),
    "card": Phase(share=0, result=f"{EMBEDDED_MODEL_NAME}/README.md", run=_card),
}
"""The phases in order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=110.0, help="for all that is run")
    parser.add_argument("--out", type=Path, default=Path("output/embedded"))
    parser.add_argument(
        "--phase", choices=list(PHASES), help="run only this one, with all the time"
    )
    parser.add_argument("--threads", type=int, help="of this process; else as torch decides")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ranks = (os.cpu_count() or 1) if arguments.device == "cpu" else 1
    run = Run(out=arguments.out, device=arguments.device, ranks=ranks)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in [arguments.phase] if arguments.phase else PHASES:
        phase = PHASES[name]
        if (run.out / phase.result).exists():
            logger.info("%s is there already", name)
            continue
        logger.info("phase %s", name)
        phase.run(run, arguments.minutes * (1.0 if arguments.phase else phase.share))


if __name__ == "__main__":
    main()
