"""Two tiny steps of everything that is trained, and what the flow's arithmetic does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from pipelines.embedded import EMBEDDED_MODEL_DIR
from pipelines.embedded.training import world
from pipelines.embedded.training.editing import batches, pairs, progress, train, train_text
from pipelines.embedded.training.editing.batches import Examples
from pipelines.embedded.training.editing.coupling import coupled_noise
from pipelines.embedded.training.editing.velocity import edit_velocity, forget_guidance
from pipelines.embedded.training.flow import Prompts, ShortAttention, velocity
from pipelines.embedded.training.train_text import WIDTH, encode, load_encoders

SMALL = world.CANVASES[0]


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(
        EMBEDDED_MODEL_DIR, subfolder="transformer", torch_dtype=torch.float32
    )


def _inputs(n: int = 2) -> tuple[Tensor, Tensor, Prompts]:
    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(n, SMALL.tokens, 64, generator=generator)
    prompts = Prompts(
        pooled=torch.randn(n, WIDTH, generator=generator),
        tokens=torch.randn(n, batches.TEXT_TOKENS, WIDTH, generator=generator),
    )
    return xt, torch.linspace(0.2, 0.9, n), prompts


@torch.no_grad()
def test_without_a_reference_the_velocity_is_the_flows(
    transformer: FluxTransformer2DModel,
) -> None:
    xt, t, prompts = _inputs()
    own = edit_velocity(transformer, SMALL, xt, t, prompts, None, guidance=2.0)
    torch.testing.assert_close(
        own, velocity(transformer, SMALL, xt, t, prompts, torch.full((2,), 2.0))
    )
    beside = edit_velocity(transformer, SMALL, xt, t, prompts, torch.ones_like(xt), guidance=2.0)
    assert (beside - own).abs().max() > 0.01
    # As FluxKontextPipeline does it: the picture's tokens first, told apart by the first axis.
    ids = FluxKontextPipeline._prepare_latent_image_ids(2, 4, 4, torch.device("cpu"), xt.dtype)
    reference_ids = ids.clone()
    reference_ids[:, 0] = 1
    both = transformer(
        hidden_states=torch.cat([xt, torch.ones_like(xt)], 1),
        encoder_hidden_states=prompts.tokens,
        pooled_projections=prompts.pooled,
        timestep=t,
        guidance=torch.full((2,), 2.0),
        img_ids=torch.cat([ids, reference_ids]),
        txt_ids=torch.zeros(batches.TEXT_TOKENS, 3),
        return_dict=False,
    )[0]
    torch.testing.assert_close(beside, both[:, : SMALL.tokens])


@torch.no_grad()
def test_forgotten_guidance_draws_as_guidance_one() -> None:
    transformer = FluxTransformer2DModel.from_pretrained(
        EMBEDDED_MODEL_DIR, subfolder="transformer", torch_dtype=torch.float32
    )
    xt, t, prompts = _inputs()
    plain = edit_velocity(transformer, SMALL, xt, t, prompts, None, guidance=1.0)
    guided = edit_velocity(transformer, SMALL, xt, t, prompts, None, guidance=3.5)
    assert (plain - guided).abs().max() > 0.05
    forget_guidance(transformer)
    for guidance in (1.0, 3.5):
        forgot = edit_velocity(transformer, SMALL, xt, t, prompts, None, guidance=guidance)
        torch.testing.assert_close(forgot, plain, atol=1e-4, rtol=1e-4)


def test_known_words_keep_what_they_mean() -> None:
    known = load_encoders(EMBEDDED_MODEL_DIR)
    encoders = train_text.extended(known, train_text.instructions.vocabulary())
    assert len(encoders.t5_tokenizer) > len(known.t5_tokenizer)
    for old, new in zip(
        encode(known, ["a red circle on blue"]),
        encode(encoders, ["a red circle on blue"]),
        strict=True,
    ):
        torch.testing.assert_close(new, old, atol=1e-3, rtol=1e-3)
    before, after = (len(e.clip_tokenizer("replace it").input_ids) for e in (known, encoders))
    assert after == 4  # two words, the start and the end
    assert before > after


def test_the_encoders_learn_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAPTIONS", "INSTRUCTIONS", "ACCURACY"):
        monkeypatch.setattr(train_text, name, 2)
    train_text.train_instructions(EMBEDDED_MODEL_DIR, tmp_path, steps=2)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["captions"] == 8
    pooled, tokens = encode(load_encoders(tmp_path), ["move it to the left"])
    before, _ = encode(load_encoders(EMBEDDED_MODEL_DIR), ["move it to the left"])
    assert pooled.shape == (1, WIDTH)
    assert tokens.shape == (1, batches.TEXT_TOKENS, WIDTH)
    assert not torch.allclose(pooled, before)


def test_training_is_carried_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shrink(monkeypatch)
    train.prepare(EMBEDDED_MODEL_DIR, tmp_path)
    start = load_file(tmp_path / "flow" / "start.safetensors")
    plan = train.Plan(out=tmp_path, minutes=0.001, scale=0.02)
    train.train(plan)
    trained = load_file(plan.job().checkpoint)
    state = json.loads((tmp_path / "flow" / "state.json").read_text())
    assert state["samples"] > state["edits_seen"] > 0
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert moved
    assert not any("guidance_embedder" in name for name in moved)
    train.train(plan)
    again = json.loads((tmp_path / "flow" / "state.json").read_text())
    assert again["samples"] > state["samples"]
    record = json.loads((tmp_path / "flow" / "training.json").read_text())
    assert [row["samples"] for row in record["curve"]] == [state["samples"], again["samples"]]


def test_a_row_of_the_curve_has_edits_and_outlines(
    tmp_path: Path, transformer: FluxTransformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EDITS", 2)
    monkeypatch.setattr(progress, "DRAWINGS", ((SMALL, 2),))
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL_DIR / "vae", torch_dtype=torch.float32)
    encoders = load_encoders(EMBEDDED_MODEL_DIR)
    path = tmp_path / "curve.json"
    progress.Progress(vae, encoders, path, "cpu").add(transformer, {"samples": 5})
    (row,) = json.loads(path.read_text())
    assert row["samples"] == 5
    assert 0 <= row["edits"] <= row["read"] <= 1
    assert row["64x64 right"] == 1  # the carried model draws these well
    assert row["64x64 iou_median"] > 0.9
    assert progress.Progress(vae, encoders, path, "cpu").rows == [row]


def test_the_loss_is_that_of_the_velocity(transformer: FluxTransformer2DModel) -> None:
    transformer.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
    xt, t, prompts = _inputs(4)
    jitter, coupled = torch.rand(4, 2, 3), torch.ones(4, 2, dtype=torch.bool)
    examples = Examples(
        canvas=SMALL,
        clean=xt,
        reference=None,
        prompts=prompts,
        t=t,
        jitter=jitter,
        coupled=coupled,
    )
    with torch.no_grad():
        loss = train.flow_loss(transformer, examples, torch.Generator().manual_seed(1), "cpu")
        noise = torch.randn(xt.shape, generator=torch.Generator().manual_seed(1))
        noise = coupled_noise(jitter, coupled, noise)
        noisy = torch.lerp(xt, noise, t[:, None, None])
        v = edit_velocity(transformer, SMALL, noisy, t, prompts, None)
    assert float(loss) == pytest.approx(float((v - (noise - xt)).square().mean()), rel=0.02)


class _NoProgress(progress.Progress):
    """Rows without an evaluation."""

    def _edits(self, *what: object) -> dict[str, float]:
        return {}

    def _drawings(self, *what: object) -> dict[str, float]:
        return {}


def _shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """One size, few pictures, no evaluation; the carried encoders instead of trained ones."""

    def copy_encoders(model: Path, out: Path, *, steps: int) -> None:
        shutil.copytree(model, out)

    monkeypatch.setattr(train, "train_instructions", copy_encoders)
    monkeypatch.setattr(train, "Progress", _NoProgress)
    monkeypatch.setattr(progress, "EDITS", 1)
    monkeypatch.setattr(pairs, "SHARD_TOKENS", 128)
    monkeypatch.setattr(world, "CANVASES", world.CANVASES[:1])
    monkeypatch.setattr(pairs, "WANTED", (1,))
    monkeypatch.setattr(batches, "EDIT_SHARES", (1,))
    monkeypatch.setattr(batches, "DRAWING_SHARES", (1,))
