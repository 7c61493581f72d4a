"""Latents as tokens, against the pipeline's own functions."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from pipelines.flux1.latents import draw_noise, pack, position_ids, unpack

CPU = torch.device("cpu")


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), channels=st.sampled_from([4, 16]))
def test_pack_is_the_pipelines_and_unpack_undoes_it(rows: int, columns: int, channels: int) -> None:
    latents = torch.randn(2, channels, 2 * rows, 2 * columns)
    packed = pack(latents)
    theirs = FluxPipeline._pack_latents(latents, 2, channels, 2 * rows, 2 * columns)
    assert torch.equal(packed, theirs)
    assert torch.equal(unpack(packed, height=16 * rows, width=16 * columns), latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_the_pipelines(dtype: torch.dtype) -> None:
    ours = draw_noise(7, height=96, width=64, latent_channels=16, device=CPU, dtype=dtype)
    generator = torch.Generator("cpu").manual_seed(7)
    theirs = randn_tensor((1, 16, 12, 8), generator=generator, device=CPU, dtype=dtype)
    assert torch.equal(ours[None], FluxPipeline._pack_latents(theirs, 1, 16, 12, 8))


def test_noise_depends_on_the_seed_alone() -> None:
    def noise(seed: int) -> torch.Tensor:
        return draw_noise(
            seed, height=32, width=64, latent_channels=16, device=CPU, dtype=torch.float32
        )

    assert noise(1).shape == (8, 64)
    assert torch.equal(noise(1), noise(1))
    assert not torch.equal(noise(1), noise(2))


def test_position_ids_are_the_pipelines() -> None:
    ids = position_ids(3, height=32, width=48, device=CPU, dtype=torch.float32)
    theirs = FluxPipeline._prepare_latent_image_ids(1, 2, 3, CPU, torch.float32)
    assert torch.equal(ids[:3], torch.zeros(3, 3))
    assert torch.equal(ids[3:], theirs)
