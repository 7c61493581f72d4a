"""Every phase after the encoders, for seconds: examples, flow, distillation, export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import evaluate, latents, loop, world
from pipelines.embedded.training.distill import distill
from pipelines.embedded.training.evaluator import Evaluator, View
from pipelines.embedded.training.export import export, folder_bytes
from pipelines.embedded.training.train_flow import train_flow
from pipelines.embedded.training.train_text import load_encoders, text_accuracy
from pipelines.embedded.training.train_vae import round_trip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoders and autoencoder are the carried model's."""
    run = tmp_path_factory.mktemp("run")
    (run / "vae").symlink_to(EMBEDDED_MODEL_DIR / "vae")
    (run / "text").symlink_to(EMBEDDED_MODEL_DIR)
    return run


@pytest.mark.long
def test_phases_follow_each_other(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "COUNTS", (16, 2, 2, 2, 2))
    monkeypatch.setattr(loop, "EVALUATED", ((world.CANVASES[0], 4),))
    latents.cache_examples(run, device="cpu")
    examples = latents.load_examples(run, world.CANVASES[0])
    assert examples.latents.shape[1:] == (16, 64)
    assert abs(examples.latents.float().std().item() - 1) < 0.3

    train_flow(run, minutes=0.03, device="cpu", ranks=1)
    record = json.loads((run / "flow" / "training.json").read_text())
    assert record["samples"] > 0
    assert record["curve"][-1]["loss"] > 0
    flow = load_file(run / "flow" / loop.CHECKPOINT)

    distill(run, minutes=0.03, device="cpu", ranks=1)
    distilled = load_file(run / "distill" / loop.CHECKPOINT)
    assert flow.keys() == distilled.keys()
    assert any(not torch.equal(flow[name], distilled[name]) for name in flow)

    export(run, run / "model")
    question = evaluate.question_for(run / "model", steps=1)
    images = evaluate.draw(evaluate.load(run / "model"), question, ["a red circle", "a star"])
    assert images.shape == (2, 3, 64, 64)
    assert folder_bytes(run / "model") < 15_000_000


def test_the_autoencoder_keeps_what_the_checker_reads() -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL_DIR / "vae")
    trip = round_trip(vae, n=60, device="cpu")
    assert trip.accuracy >= 0.99
    assert trip.mean_absolute_error < 0.01


def test_the_text_encoders_read_held_out_sentences() -> None:
    scores = text_accuracy(load_encoders(EMBEDDED_MODEL_DIR), n=200)
    assert scores["clip"] >= 0.99
    assert scores["t5"] >= 0.85  # sentences of more than 16 tokens lose their end


def test_the_evaluator_sees_what_the_carried_transformer_draws(run: Path) -> None:
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel.from_pretrained(EMBEDDED_MODEL_DIR / "transformer")
    shares = Evaluator(run, n=16, device="cpu")(transformer, View())
    assert shares.one >= 0.75
    assert 0 <= shares.two <= 1
