"""The packed forward against the transformer's own, on random inputs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from deployments.options import DenoiserOptions
from pipelines.attention import BACKENDS, backend
from pipelines.checkpoint import load_denoiser_components
from pipelines.errors import ConfigurationError
from pipelines.ragged import PackedBatch, PackedFlux, RotaryTable, SegmentShape, make_layout
from pipelines.sampling import position_ids

CPU = torch.device("cpu")


@torch.inference_mode()
@pytest.mark.parametrize("variant", ["dev_like", "schnell_like"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_velocity_of_a_mixed_batch_equals_forward_of_each(
    variant: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    folder: Path = request.getfixturevalue(variant)
    transformer, _ = load_denoiser_components(str(folder), device="cpu", dtype=dtype)
    flux = PackedFlux(transformer)
    sizes = [(12, 64, 64), (20, 32, 96), (12, 64, 64), (7, 16, 16)]
    guidance = [1.0, 3.5, 2.0, 5.0]
    times = [1000.0, 812.5, 433.3, 61.0]
    images, texts, rows, ropes, expected = [], [], [], [], []
    for (length, height, width), scale, time in zip(sizes, guidance, times, strict=True):
        tokens = height * width // 256
        latents = torch.randn(tokens, 64).to(flux.dtype)
        embeds = torch.randn(length, flux.config.joint_attention_dim).to(flux.dtype)
        pooled = torch.randn(flux.config.pooled_projection_dim).to(flux.dtype)
        ids = position_ids(length, height=height, width=width, device=CPU, dtype=flux.dtype)
        expected.append(
            transformer(
                hidden_states=latents[None],
                encoder_hidden_states=embeds[None],
                pooled_projections=pooled[None],
                timestep=torch.tensor([time]).to(flux.dtype) / 1000,
                guidance=torch.tensor([scale]) if flux.config.guidance_embeds else None,
                img_ids=ids[length:],
                txt_ids=ids[:length],
                return_dict=False,
            )[0][0]
        )
        images.append(latents)
        texts.append(flux.embed_text(embeds))
        rows.append(flux.modulation(torch.tensor([time]), scale, pooled)[0])
        ropes.append(flux.rotary(ids))
    shapes = [SegmentShape(length, h * w // 256) for length, h, w in sizes]
    velocity = flux.velocity(
        PackedBatch(
            layout=make_layout(shapes, CPU),
            img=torch.cat(images),
            txt=torch.cat(texts),
            vec=torch.stack(rows),
            rope=RotaryTable(torch.cat([r.cos for r in ropes]), torch.cat([r.sin for r in ropes])),
        )
    )
    tolerance = 2e-5 if dtype == "float32" else 0.05
    for ours, theirs in zip(velocity.split([s.image for s in shapes]), expected, strict=True):
        assert theirs.std() > 0.1
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_layout_reorders_streams_into_segments() -> None:
    layout = make_layout([SegmentShape(2, 1), SegmentShape(1, 3)], CPU)
    #                 stream order: text a a b, image a b b b
    stream = torch.tensor([10, 11, 20, 12, 21, 22, 23])
    segments = stream[layout.to_segments]
    assert segments.tolist() == [10, 11, 12, 20, 21, 22, 23]
    assert segments[layout.text_rows].tolist() == [10, 11, 20]
    assert segments[layout.image_rows].tolist() == [12, 21, 22, 23]
    assert layout.owner.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert layout.text_owner.tolist() == [0, 0, 1]
    assert layout.image_owner.tolist() == [0, 1, 1, 1]
    assert layout.lengths == (3, 4)


def test_attention_stays_inside_its_segment() -> None:
    attend = backend("sdpa")
    lengths = [3, 3, 5, 2]
    query, key, value = torch.randn(3, sum(lengths), 2, 8).unbind()
    before = attend(query, key, value, lengths)
    value[6:11] += 100.0
    after = attend(query, key, value, lengths)
    changed = (before - after).abs().flatten(1).amax(dim=1) > 0
    assert changed.tolist() == [False] * 6 + [True] * 5 + [False] * 2


def test_the_configurable_back_ends_are_those_that_exist() -> None:
    assert set(get_args(DenoiserOptions.model_fields["attention"].annotation)) == set(BACKENDS)


def test_an_unknown_attention_back_end_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="sdpa"):
        backend("flash9")
