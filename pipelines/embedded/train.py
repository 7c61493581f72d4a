"""Trains the carried model from nothing, phase by phase.

``python -m pipelines.embedded.train --device cpu --minutes 110 --out runs/shapes``

Each phase leaves its result in a folder of its own under ``--out`` and is skipped when that is
there already, so an interrupted run goes on with the phase it was in. All files are safetensors
or JSON.
"""

import argparse
import logging
from pathlib import Path

import torch

log = logging.getLogger(__name__)

PHASES: dict[str, float] = {"vae": 0.14, "text": 0.1, "latents": 0.02, "flow": 0.66, "distill": 0.08}
"""The phases in order, with each one's share of the time."""


def run_phase(phase: str, out: Path, *, minutes: float, device: str) -> None:
    """Run one phase with a budget of its own."""
    if phase == "vae":
        from pipelines.embedded.train_vae import train_vae

        train_vae(out / "vae", minutes=minutes, device=device)
    elif phase == "text":
        from pipelines.embedded.train_text import train_text

        train_text(out / "text", minutes=minutes)
    elif phase == "latents":
        from pipelines.embedded.latents import cache_examples

        cache_examples(out, n=50_000, device=device)
    elif phase == "flow":
        from pipelines.embedded.train_flow import train_flow

        train_flow(out, minutes=minutes, device=device, ranks=2 if device == "cpu" else 1)
    elif phase == "distill":
        from pipelines.embedded.distill import distill

        distill(out, minutes=minutes, device=device, ranks=2 if device == "cpu" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=110.0, help="for all that is run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=list(PHASES), help="run only this one")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch decides")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    shares = {arguments.phase: 1.0} if arguments.phase else PHASES
    for phase, share in shares.items():
        minutes = arguments.minutes * share
        run_phase(phase, arguments.out, minutes=minutes, device=arguments.device)


if __name__ == "__main__":
    main()
