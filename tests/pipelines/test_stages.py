"""Stages load only what is theirs, count tokens, and refuse what they cannot do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.contracts import (
    DecodedImage,
    LatentJob,
    Latents,
    SamplingParams,
    TextPrompt,
)
from pipelines.errors import CheckpointError, ConfigurationError, DegenerateImage, InvalidRequest
from pipelines.flux1.checkpoint import load_vae
from pipelines.flux1.decoder import FluxDecoder
from pipelines.flux1.prompt_tensors import PromptTensors
from pipelines.prompts.unread_text import DroppedText, UnreadText
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from tests.jobs import with_sampling

JOB = LatentJob(
    work_id="a",
    group="a",
    sampling=SamplingParams(height=64, width=64, num_inference_steps=2, guidance_scale=1.0, seed=0),
)


def only(folder: Path, target: Path, *subfolders: str) -> str:
    """A copy of a model folder that holds these components alone."""
    shutil.copy(folder / "model_index.json", target)
    for name in subfolders:
        shutil.copytree(folder / name, target / name)
    return str(target)


def test_each_stage_needs_its_own_components_only(dev_like: Path, tmp_path: Path) -> None:
    parts = {
        "text": ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2"),
        "denoiser": ("transformer", "scheduler"),
        "vae": ("vae",),
    }
    folders = {}
    for name, subfolders in parts.items():
        (tmp_path / name).mkdir()
        folders[name] = only(dev_like, tmp_path / name, *subfolders)
    encoder = TextEncoderStage.load(folders["text"])
    (conditioning,) = encoder.encode([TextPrompt(prompt="a cat", max_sequence_length=8)])
    denoiser = DenoiserStage.load(folders["denoiser"])
    trajectory = denoiser.admit(JOB, conditioning, None)
    denoiser.tick([trajectory])
    denoiser.tick([trajectory])
    (image,) = VaeDecoderStage.load(folders["vae"]).decode([denoiser.finish(trajectory)])
    assert isinstance(image, DecodedImage)
    assert (image.height, image.width) == (64, 64)
    with pytest.raises(CheckpointError, match="scheduler"):
        DenoiserStage.load(folders["vae"])


def test_tokens_are_counted_and_the_dropped_tail_is_named(dev_like: Path) -> None:
    encoder = TextEncoderStage.load(str(dev_like))
    fits, cut = encoder.encode(
        [
            TextPrompt(prompt="a red cat", max_sequence_length=6),
            TextPrompt(prompt="a red cat on the left of a dog", max_sequence_length=6),
        ]
    )
    assert (fits.num_tokens, fits.unread) == (4, UnreadText())
    assert cut.num_tokens == 6
    assert cut.unread == UnreadText(dropped=(DroppedText("T5", "left of a dog", max_tokens=6),))
    assert fits.groups == (("text", 6),)
    assert [tuple(each.shape) for each in PromptTensors.of(fits)] == [(6, 40), (24,)]
    assert encoder.encode([]) == []


def test_prompts_of_two_lengths_do_not_share_a_batch(dev_like: Path) -> None:
    prompts = [TextPrompt(prompt="a", max_sequence_length=n) for n in (6, 8)]
    with pytest.raises(ValueError, match="too many values"):
        TextEncoderStage.load(str(dev_like)).encode(prompts)


def test_a_conditioning_of_another_model_is_refused(dev_like: Path) -> None:
    alien = PromptTensors(torch.zeros(8, 4096), torch.zeros(768)).conditioning(num_tokens=1)
    with pytest.raises(InvalidRequest, match="4096 and 768"):
        DenoiserStage.load(str(dev_like)).admit(JOB, alien, None)


def test_values_that_are_not_finite_are_an_error_of_that_image_alone(dev_like: Path) -> None:
    stage = VaeDecoderStage.load(str(dev_like))
    good = Latents(packed=torch.randn(16, 64), height=64, width=64, steps_run=1)
    bad = Latents(packed=torch.full((16, 64), torch.nan), height=64, width=64, steps_run=1)
    first, second, third = stage.decode([good, bad, good])
    assert isinstance(second, DegenerateImage)
    assert isinstance(first, DecodedImage)
    assert isinstance(third, DecodedImage)
    (alone,) = stage.decode([good])
    assert isinstance(alone, DecodedImage)
    assert np.array_equal(first.pixels, alone.pixels)
    denoiser = DenoiserStage.load(str(dev_like))
    (conditioning,) = TextEncoderStage.load(str(dev_like)).encode(
        [TextPrompt(prompt="a", max_sequence_length=6)]
    )
    trajectory = denoiser.admit(JOB, conditioning, None)
    trajectory.latents = bad.packed
    with pytest.raises(DegenerateImage, match="not finite"):
        denoiser.finish(trajectory)


def test_a_flat_image_is_an_error_not_a_result(dev_like: Path) -> None:
    vae = load_vae(str(dev_like), device="cpu", dtype="float32")
    assert vae.decoder.conv_out.bias is not None
    with torch.no_grad():
        vae.decoder.conv_out.weight.zero_()
        vae.decoder.conv_out.bias.fill_(-1.0)
    stage = VaeDecoderStage(FluxDecoder(vae))
    flat = Latents(packed=torch.randn(16, 64), height=64, width=64, steps_run=1)
    (image,) = stage.decode([flat])
    assert isinstance(image, DegenerateImage)
    assert "all one value (0 of 255)" in str(image)


def test_missing_and_foreign_folders_are_named(dev_like: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model_index"):
        TextEncoderStage.load(str(tmp_path))
    index = json.loads((dev_like / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="StableDiffusionPipeline"):
        VaeDecoderStage.load(str(tmp_path))


def test_pickled_weights_are_not_read(dev_like: Path, tmp_path: Path) -> None:
    source = only(dev_like, tmp_path, "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="vae"):
        VaeDecoderStage.load(source)


def test_a_damaged_file_fails_with_its_folder(dev_like: Path, tmp_path: Path) -> None:
    source = only(dev_like, tmp_path, "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="/vae"):
        VaeDecoderStage.load(source)


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        (TextEncoderStage, "text_encoder/model.safetensors"),
        (TextEncoderStage, "text_encoder_2/model.safetensors"),
        (DenoiserStage, "transformer/diffusion_pytorch_model.safetensors"),
        (VaeDecoderStage, "vae/diffusion_pytorch_model.safetensors"),
    ],
)
def test_weights_that_lack_a_tensor_are_refused(
    dev_like: Path, tmp_path: Path, stage: type[VaeDecoderStage], file: str
) -> None:
    """The libraries would fill the gap with random numbers, and draw."""
    source = tmp_path / "model"
    shutil.copytree(dev_like, source)
    weights = load_file(source / file)
    dropped = next(name for name in weights if "weight" in name and "norm" not in name)
    del weights[dropped]
    save_file(weights, source / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        stage.load(str(source))


def test_a_tick_that_raises_has_moved_nobody(
    dev_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the engine, which then steps each alone, would step some of them twice."""
    (conditioning,) = TextEncoderStage.load(str(dev_like)).encode(
        [TextPrompt(prompt="a", max_sequence_length=6)]
    )
    denoiser = DenoiserStage.load(str(dev_like))
    guided = with_sampling(JOB, true_cfg_scale=2.0)
    works = [
        denoiser.admit(JOB, conditioning, None),
        denoiser.admit(guided, conditioning, conditioning),
    ]
    before = [work.latents.clone() for work in works]

    def out_of_memory(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("pipelines.sampling.guide", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        denoiser.tick(works)
    assert [work.step for work in works] == [0, 0]
    assert all(torch.equal(work.latents, old) for work, old in zip(works, before, strict=True))


def test_devices_and_dtypes_that_cannot_be_are_refused(dev_like: Path) -> None:
    with pytest.raises(ConfigurationError, match="float32, bfloat16, float16"):
        VaeDecoderStage.load(str(dev_like), dtype="float8")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="CUDA"):
            VaeDecoderStage.load(str(dev_like), device="cuda")


@pytest.mark.gpu
def test_the_chain_runs_on_a_gpu_in_bfloat16(dev_like: Path) -> None:
    options: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}
    encoder = TextEncoderStage.load(str(dev_like), **options)
    (conditioning,) = encoder.encode([TextPrompt(prompt="a cat", max_sequence_length=8)])
    denoiser = DenoiserStage.load(str(dev_like), **options)
    trajectory = denoiser.admit(JOB, conditioning, None)
    while not trajectory.is_done:
        denoiser.tick([trajectory])
    decoder = VaeDecoderStage.load(str(dev_like), **options)
    (image,) = decoder.decode([denoiser.finish(trajectory)])
    assert isinstance(image, DecodedImage)
