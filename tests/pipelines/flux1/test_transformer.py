"""The packed forward against the transformer's own, on random inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch._dynamo.testing import CompileCounter

from pipelines.flux1.checkpoint import load_denoiser_components
from pipelines.flux1.transformer import PackedFlux
from tests.pipelines.packed import SegmentSpec, draw, random_specs, references, velocities

CPU = torch.device("cpu")
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
# Relative to the largest velocity. A packed product has other rows beside a segment's own, so a
# library may sum in another order. In float32 that is a few units of 6e-8 in each of some hundred
# sums; in bfloat16, where a unit is 4e-3, a few units in the result.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03}


def load(folder: Path, device: str = "cpu", dtype: str = "float32") -> Any:
    return load_denoiser_components(str(folder), device=device, dtype=dtype).transformer


def load_oracle(folder: Path, device: str = "cpu", dtype: str = "float32") -> Any:
    model: Any = FluxTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=getattr(torch, dtype)
    )
    return model.to(device).eval()


@torch.inference_mode()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("variant", ["dev_like", "schnell_like"])
def test_velocity_of_a_mixed_batch_equals_forward_of_each(
    variant: str, dtype: str, device: str, request: pytest.FixtureRequest
) -> None:
    """Sizes, text lengths, times, guidance and guided pairs at random, up to 16 works."""
    folder = request.getfixturevalue(variant)
    flux, oracle = PackedFlux(load(folder, device, dtype)), load_oracle(folder, device, dtype)
    for seed, works in enumerate([1, 2, 3, 5, 8, 16]):
        segments = draw(flux, random_specs(seed, works), seed)
        for ours, theirs in zip(
            velocities(flux, segments), references(oracle, flux, segments), strict=True
        ):
            assert theirs.std() > 0.1
            assert (ours - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_velocity_of_equal_segments_equals_forward_of_each(dtype: str, dev_like: Path) -> None:
    """Segments of one shape take the way without indices; their times and prompts differ."""
    flux, oracle = PackedFlux(load(dev_like, dtype=dtype)), load_oracle(dev_like, dtype=dtype)
    for count in (1, 2, 7):
        specs = [SegmentSpec(12, 48, 80, 1.0 + i, 1000.0 - 100 * i) for i in range(count)]
        segments = draw(flux, specs)
        assert flux.layout([spec.shape for spec in specs]).groups == count
        for ours, theirs in zip(
            velocities(flux, segments), references(oracle, flux, segments), strict=True
        ):
            assert (ours - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_request_alone_equals_forward_to_the_bit(dtype: str, dev_like: Path) -> None:
    """The arithmetic and its order are diffusers', not only close to it.

    At d = 64 every product is one piece for the library, so nothing is summed in another order.
    """
    flux, oracle = PackedFlux(load(dev_like, dtype=dtype)), load_oracle(dev_like, dtype=dtype)
    segments = draw(flux, [SegmentSpec(16, 64, 64, 3.5, 812.5)])
    (ours,), (theirs,) = velocities(flux, segments), references(oracle, flux, segments)
    assert torch.equal(ours, theirs)


def test_fused_weights_are_held_once_and_the_transformer_still_works(dev_like: Path) -> None:
    transformer = load(dev_like)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    first = PackedFlux(transformer)
    again = PackedFlux(transformer)
    for name, value in transformer.state_dict().items():
        assert torch.equal(value, before[name]), name
    attn = transformer.single_transformer_blocks[0].attn
    storage = attn.to_q.weight.untyped_storage().data_ptr()
    projection = transformer.single_transformer_blocks[0].proj_mlp.weight
    assert projection.untyped_storage().data_ptr() == storage
    for flux in (first, again):
        assert flux._single[0].qkv_mlp.weight.untyped_storage().data_ptr() == storage
        assert torch.equal(
            flux._single[0].qkv_mlp.weight[: len(attn.to_q.weight)], attn.to_q.weight
        )


@torch.inference_mode()
def test_compiling_does_not_depend_on_the_batch(dev_like: Path) -> None:
    """All blocks share four halves, compiled for one segment and for several, at the start."""
    torch._dynamo.reset()
    counter = CompileCounter()
    transformer = load(dev_like)
    eager = PackedFlux(transformer)
    compiled = PackedFlux(transformer, compile=True, compiler=counter)
    assert counter.frame_count == 8
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed, works in enumerate([1, 2, 3, 4, 5, 6, 8, 9, 12, 16]):
            segments = draw(eager, random_specs(seed, works), seed)
            for ours, theirs in zip(
                velocities(compiled, segments), velocities(eager, segments), strict=True
            ):
                assert (ours - theirs).abs().max() <= TOLERANCE["float32"] * theirs.abs().max()
    torch._dynamo.reset()
