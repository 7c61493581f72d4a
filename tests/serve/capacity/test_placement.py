from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import catalog
from pipelines.errors import ConfigurationError
from serve.app import build
from serve.capacity.placement import Placement, placements
from serve.cli.configurations import read_configurations
from serve.settings.settings import Settings
from tests.pipelines.second_family import made_up_spec, registered

CONFIGS = Path(__file__).resolve().parents[3] / "serve" / "configs"
FLUX_WEIGHTS = 11_901_408_320
TEXT_WEIGHTS = 4_885_371_136
DECODER_WEIGHTS = 49_545_475
ENCODER_WEIGHTS = 83_819_683 - DECODER_WEIGHTS


def placed(**args: Any) -> dict[str, Placement]:
    settings = Settings.load({name.replace("__", "."): value for name, value in args.items()})
    return {row.deployment: row for row in placements(settings)}


def test_flux_dev():
    (found,) = read_configurations(CONFIGS / "flux-dev.yaml")
    assert found.application == "default"
    rows = {row.deployment: row for row in placements(found.settings)}
    assert list(rows) == [
        "Ingress",
        "TextEncoder",
        "ImageEncoder",
        "Denoiser",
        "VaeDecoder",
        "SafetyClassifier",
        "Finisher",
    ]
    denoiser = rows["Denoiser"]
    assert (denoiser.min_replicas, denoiser.max_replicas, denoiser.num_gpus) == (1, 8, 1.0)
    assert (denoiser.device, denoiser.dtype, denoiser.where) == (
        "cuda",
        "bfloat16",
        "sluice-pool=denoise",
    )
    weights = {name: row.memory.weights for name, row in rows.items() if row.memory}
    assert weights == {
        "TextEncoder": 2 * TEXT_WEIGHTS,
        "ImageEncoder": 2 * ENCODER_WEIGHTS,
        "Denoiser": 2 * FLUX_WEIGHTS,
        "VaeDecoder": 2 * DECODER_WEIGHTS,
    }
    assert rows["Finisher"].dtype is None
    # Half of what the engine takes, 80 % of the rest, holds a step of 2048x2048 with its prompt.
    assert denoiser.memory
    free = denoiser.memory.total - denoiser.memory.weights
    assert 0.4 * free == pytest.approx(denoiser.memory.activations)
    assert denoiser.gpu_bytes == denoiser.memory.total + 2**29


def test_ranks_have_a_bundle_each_and_share_the_blocks():
    gpu: dict[str, Any] = {
        "model": "flux.1-dev",
        "stages__denoiser__num_gpus": 1,
        "stages__denoiser__dtype": "bfloat16",
    }
    one, four = (
        placed(**gpu, stages__denoiser__parallel__tensor=tensor)["Denoiser"] for tensor in (1, 4)
    )
    assert (four.num_gpus, four.gpus_each, len(four.bundles)) == (4, 1, 4)
    assert one.memory
    assert four.memory
    # Of 22.2 GiB, a quarter of the blocks' 16 and the modulation's 6 are on the first rank.
    assert four.memory.weights / 2**30 == pytest.approx(10.15, abs=0.1)
    assert four.memory.activations < one.memory.activations
    spread = placed(**gpu, stages__denoiser__parallel__ulysses=4)["Denoiser"]
    assert spread.memory
    assert spread.memory.weights == one.memory.weights
    assert spread.memory.activations < 0.5 * one.memory.activations


def test_degrees_that_do_not_divide_the_heads_are_refused_with_one_that_does():
    with pytest.raises(
        ConfigurationError, match=r"stages\.denoiser\.parallel: tensor 5 .* share 24 .* such as 4"
    ):
        placed(
            model="flux.1-dev",
            stages__denoiser__num_gpus=1,
            stages__denoiser__parallel__tensor=5,
        )


def test_a_family_that_cannot_be_split_is_refused_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog, "find", lambda name, source=None: made_up_spec())
    with registered():
        assert placed()["Denoiser"].num_gpus == 0
        with pytest.raises(
            ConfigurationError, match=r"^stages\.denoiser\.parallel: .* made-up.*; leave it out$"
        ):
            placed(stages__denoiser__parallel__ulysses=2)


def test_fixed_replicas_have_equal_bounds():
    rows = placed(stages__denoiser__num_replicas=3, ingress__num_replicas=2)
    bounds = {name: (row.min_replicas, row.max_replicas) for name, row in rows.items()}
    assert (bounds["Denoiser"], bounds["Ingress"], bounds["Finisher"]) == ((3, 3), (2, 2), (1, 1))


def test_without_a_gpu_no_gpu_memory_is_needed():
    assert {row.gpu_bytes for row in placed().values()} == {0}


def test_a_smaller_limit_takes_less():
    large, small = placed(model="flux.1-dev"), placed(model="flux.1-dev", limits__max_pixels=2**20)
    for name in ("Denoiser", "ImageEncoder", "VaeDecoder"):
        before, after = large[name].memory, small[name].memory
        assert before
        assert after
        # Of a VAE, the tiles stay, and what is joined of them goes.
        assert after.activations < before.activations / (2 if name == "Denoiser" else 1)
        assert after.weights == before.weights


GPU_DECODER: dict[str, Any] = {
    "model": "flux.1-dev",
    "stages__vae_decoder__num_gpus": 1,
    "stages__vae_decoder__dtype": "bfloat16",
    "stages__image_encoder__num_gpus": 1,
    "stages__image_encoder__dtype": "bfloat16",
}


def activations(stage: str, **args: Any) -> int:
    memory = placed(**GPU_DECODER, **args)[stage].memory
    assert memory
    return memory.activations


def test_a_vae_needs_the_memory_of_a_tile_and_not_of_the_image():
    """Tiles of 1024x1024, of an image of 2048x2048: 3 x 256 values a pixel to decode them, four
    images together, and 9 of each to join them; 4 x 128 to encode one, and 6 beside."""
    tile, image = 1024**2, 2048**2
    least = {
        "VaeDecoder": 2 * 4 * (3 * 256 * tile + 9 * image),
        "ImageEncoder": 2 * (4 * 128 * tile + 6 * image),
    }
    whole = {"VaeDecoder": 2 * 4 * 3 * 256 * image, "ImageEncoder": 2 * 4 * 128 * image}
    for stage, key in (("VaeDecoder", "vae_decoder"), ("ImageEncoder", "image_encoder")):
        assert activations(stage) == least[stage]
        option = f"stages__{key}__tile_from_pixels"
        assert activations(stage, **{option: image + 1}) == whole[stage]
        assert activations(stage, **{option: image}) == pytest.approx(whole[stage], rel=0.02)
        assert activations(stage, **{option: 2 * tile}) == pytest.approx(whole[stage] / 2, rel=0.03)


def test_a_known_gpu_is_tiled_for_as_it_will_be():
    """A quarter of an H200 holds four images of 2048x2048, and that of a T4 not one."""
    kinds = {name: f"stages__{name}__accelerator_type" for name in ("vae_decoder", "image_encoder")}
    large = dict.fromkeys(kinds.values(), "H200")
    small = dict.fromkeys(kinds.values(), "T4")
    assert activations("ImageEncoder", **large) == 2 * 4 * 128 * 2048**2
    at_once = activations("VaeDecoder", **large)
    assert activations("VaeDecoder") < at_once <= 139 * 2**30 / 4 + 2 * 4 * 9 * 2048**2
    assert activations("VaeDecoder", **small) == activations("VaeDecoder")


def test_tiles_of_a_family_that_has_none_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog, "find", lambda name, source=None: made_up_spec())
    with (
        registered(),
        pytest.raises(ConfigurationError, match=r"^stages\.vae_decoder\.tile_from_pixels: "),
    ):
        placed(stages__vae_decoder__tile_from_pixels=5)


def test_fused_stages_on_the_gpu_share_its_memory():
    args: dict[str, Any] = {
        "model": "flux.1-dev",
        "stages__layout": "fused",
        "stages__denoiser__num_gpus": 1,
        "stages__denoiser__dtype": "bfloat16",
        "stages__vae_decoder__num_gpus": 1,
    }
    ingress, fused = placed(**args).values()
    assert (ingress.deployment, fused.deployment, fused.num_gpus) == ("Ingress", "Fused", 1)
    assert fused.memory
    assert fused.memory.weights == 2 * FLUX_WEIGHTS + 4 * DECODER_WEIGHTS
    with_pictures = placed(**args, stages__image_encoder__num_gpus=1)["Fused"]
    assert with_pictures.memory
    assert with_pictures.memory.weights == fused.memory.weights + 4 * ENCODER_WEIGHTS
    more = placed(**args, stages__text_encoder__num_gpus=1)["Fused"]
    assert more.memory
    assert more.memory.weights == fused.memory.weights + 4 * TEXT_WEIGHTS


class TestRefused:
    def test_another_models_weights(self):
        folder = Settings.load().model_spec().source
        with pytest.raises(ConfigurationError, match="write model: sluice-shapes"):
            build({"model": "flux.1-dev", "model_source": folder})

    def test_memory_that_holds_no_step_of_the_largest_image(self):
        args = {"model": "flux.1-dev", "stages.denoiser.memory_mib": 6000}
        with pytest.raises(
            ConfigurationError, match=r"memory_mib: 6000 .* use at least (\d+)"
        ) as e:
            build(args)
        enough = int(e.value.message.partition("at least ")[2].partition(",")[0])
        build(args | {"stages.denoiser.memory_mib": enough})
        with pytest.raises(ConfigurationError, match="memory_mib"):
            build(args | {"stages.denoiser.memory_mib": enough - 1})
        build(args | {"limits.max_pixels": 1024 * 1024})
