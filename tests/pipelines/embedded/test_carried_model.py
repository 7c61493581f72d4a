"""The carried folder: it loads as any FLUX.1 model does, is small, and draws what is said."""

import json
import logging
import struct

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from pipelines.embedded import EMBEDDED_MODEL_DIR, EMBEDDED_MODEL_NAME, EMBEDDED_MODEL_VERSION
from pipelines.embedded.training import card, checker, evaluate, world


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return evaluate.load(EMBEDDED_MODEL_DIR)


@pytest.fixture(scope="module")
def question() -> evaluate.Question:
    return evaluate.question_for(EMBEDDED_MODEL_DIR)


def _draw(
    pipeline: FluxPipeline, question: evaluate.Question, prompt: str, **how: str | float
) -> Tensor:
    images = pipeline(
        prompt,
        height=question.canvas.height,
        width=question.canvas.width,
        num_inference_steps=question.steps,
        guidance_scale=question.guidance,
        max_sequence_length=question.max_sequence_length,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **how,  # type: ignore[arg-type]
    ).images  # type: ignore[union-attr]
    return torch.as_tensor(images)


def _shown(images: Tensor) -> str:
    return world.describe(checker.read(images)[0])


def test_it_is_small_and_stored_as_float16() -> None:
    size = sum(path.stat().st_size for path in EMBEDDED_MODEL_DIR.rglob("*") if path.is_file())
    assert size < 15_000_000
    weights = list(EMBEDDED_MODEL_DIR.glob("*/*.safetensors"))
    assert len(weights) == 4
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        dtypes = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        assert dtypes == {"F16"}


def test_it_loads_as_float32_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pipeline = FluxPipeline.from_pretrained(EMBEDDED_MODEL_DIR)
    assert [record.message for record in caplog.records] == []
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert getattr(pipeline, name).dtype == torch.float32
    assert pipeline.transformer.config.guidance_embeds


@pytest.mark.parametrize(("objects", "n", "right"), [(1, 12, 10), (2, 12, 8)])
def test_it_draws_held_out_prompts(
    pipeline: FluxPipeline, question: evaluate.Question, objects: int, n: int, right: int
) -> None:
    codes, prompts = evaluate.held_out_prompts(n, objects=objects)
    images = evaluate.draw(pipeline, question, prompts)
    assert checker.judge(images, codes).all.sum() >= right


def test_it_draws_a_larger_picture(pipeline: FluxPipeline) -> None:
    question = evaluate.question_for(EMBEDDED_MODEL_DIR, canvas=world.Canvas(128, 128))
    codes, prompts = evaluate.held_out_prompts(6, objects=1)
    images = evaluate.draw(pipeline, question, prompts)
    assert images.shape == (6, 3, 128, 128)
    assert checker.judge(images, codes).all.sum() >= 4


def test_the_seed_moves_the_object_and_nothing_else(
    pipeline: FluxPipeline, question: evaluate.Question
) -> None:
    prompts = ["a red circle on a white background"] * 4
    images = evaluate.draw(pipeline, question, prompts)
    assert len({_shown(image[None]) for image in images}) == 1
    assert not torch.allclose(images[0], images[1], atol=0.1)
    again = evaluate.draw(pipeline, question, prompts[:1])
    torch.testing.assert_close(again[0], images[0], atol=1e-3, rtol=0)


def test_a_background_that_is_not_named_is_white(
    pipeline: FluxPipeline, question: evaluate.Question
) -> None:
    assert _shown(_draw(pipeline, question, "a blue star")).endswith("; white")


@pytest.mark.parametrize(
    "prompt",
    [
        "Please, dear Sluice: a red heart on a yellow background!",
        "Red Heart, Yellow Background",
        "A RED HEART ON YELLOW",
        "a red heart on a yellow background, " + "very very nice " * 30,
    ],
)
def test_it_understands_sentences_it_was_not_taught(
    pipeline: FluxPipeline, question: evaluate.Question, prompt: str
) -> None:
    assert _shown(_draw(pipeline, question, prompt)).startswith("centre: red heart")


def test_a_negative_prompt_and_guidance_change_the_picture(
    pipeline: FluxPipeline, question: evaluate.Question
) -> None:
    prompt = "a green square on a pink background"
    plain = _draw(pipeline, question, prompt)
    negative = _draw(pipeline, question, prompt, negative_prompt="", true_cfg_scale=2.0)
    assert not torch.allclose(plain, negative, atol=0.02)
    assert _shown(plain) == _shown(negative)
    assert _shown(plain).startswith("centre: green square")


def test_sluice_json_names_the_model() -> None:
    defaults = json.loads((EMBEDDED_MODEL_DIR / "sluice.json").read_text())
    assert defaults["name"] == EMBEDDED_MODEL_NAME
    assert defaults["version"] == EMBEDDED_MODEL_VERSION
    assert defaults["sizes"] == [str(canvas) for canvas in world.CANVASES]


def test_the_card_states_what_was_measured() -> None:
    text = (EMBEDDED_MODEL_DIR / "README.md").read_text()
    assert text == card.card(EMBEDDED_MODEL_DIR)
    evaluation = json.loads((EMBEDDED_MODEL_DIR / "evaluation.json").read_text())
    assert evaluation["n"] >= 500
    assert evaluation["one_object"] >= 0.9
    assert f"| one object, all right | {evaluation['one_object']:.1%} |" in text
    assert f"| two objects, all right | {evaluation['two_objects']:.1%} |" in text
    for size in evaluation["sizes"].values():
        low, high = size["one_interval"]
        assert low <= size["one_object"] <= high
