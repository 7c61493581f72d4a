"""Our modules of the transformer against diffusers': names, weights, and what they compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from pipelines.errors import CheckpointError
from pipelines.flux1.checkpoint import load_denoiser_components
from pipelines.flux1.latents import position_ids
from pipelines.flux1.modules import FluxTransformer, TransformerConfig
from pipelines.flux1.transformer import PackedFlux

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder: Path, dtype: str = "float32") -> Any:
    return load_denoiser_components(str(folder), device="cpu", dtype=dtype).transformer


@pytest.mark.parametrize(
    "config",
    [{}, {"guidance_embeds": True}, {"out_channels": 32, "patch_size": 2, "num_layers": 1}],
    ids=str,
)
def test_names_and_shapes_are_those_of_diffusers(config: dict[str, Any]) -> None:
    """Of the full size, without memory for it."""
    with torch.device("meta"):
        ours = FluxTransformer(TransformerConfig.of(config))
        theirs = FluxTransformer2DModel(**config)
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == {
        name: weight.shape for name, weight in theirs.state_dict().items()
    }


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("variant", ["dev_like", "schnell_like"])
def test_weights_modulation_and_rotary_factors_are_theirs_to_the_bit(
    variant: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(variant)
    theirs: Any = FluxTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=getattr(torch, dtype)
    )
    ours = load(folder, dtype)
    assert not ours.training
    assert not any(weight.requires_grad for weight in ours.parameters())
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        assert weight.dtype == expected[name].dtype
        assert torch.equal(weight, expected[name]), name
    mine, other = PackedFlux(ours), PackedFlux(theirs.eval())
    times = torch.tensor([1000.0, 812.5, 433.25, 61.0])
    pooled = torch.randn(ours.config.pooled_projection_dim, dtype=ours.dtype)
    vectors = (flux.modulation(times, 3.5, pooled) for flux in (mine, other))
    assert torch.equal(*vectors)
    ids = position_ids(7, height=4096, width=64, device=ours.device, dtype=ours.dtype)
    for one, two in zip(mine.rotary(ids), other.rotary(ids), strict=True):
        assert one.dtype == two.dtype == torch.float32
        assert torch.equal(one, two)


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a model's transformer and scheduler, with other values in its configuration."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("vae", "t*encoder*", "tokeni*"))
    path = target / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def test_weights_may_lie_in_several_files(dev_like: Path, tmp_path: Path) -> None:
    folder = changed(dev_like, tmp_path / "model")
    whole = load_file(folder / "transformer" / WEIGHTS)
    (folder / "transformer" / WEIGHTS).unlink()
    names = sorted(whole)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        index.update(dict.fromkeys(part, f"part-{number}.safetensors"))
        save_file(
            {name: whole[name] for name in part},
            folder / f"transformer/part-{number}.safetensors",
        )
    path = folder / f"transformer/{WEIGHTS}.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    for name, weight in load(folder).state_dict().items():
        assert torch.equal(weight, whole[name])
    path.write_text(json.dumps({"weight_map": {**index, "proj_out.bias": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"transformer: cannot be loaded: .*gone"):
        load(folder)


@pytest.mark.parametrize(
    "named",
    ["../theirs.safetensors", "{other}/theirs.safetensors", "sub/theirs.safetensors", "..", "", 1],
    ids=str,
)
def test_an_index_that_names_what_is_no_file_of_its_folder_is_refused(
    dev_like: Path, tmp_path: Path, named: object
) -> None:
    """Be there weights or not: what lies elsewhere is not opened."""
    folder = changed(dev_like, tmp_path / "model")
    weights = folder / "transformer" / WEIGHTS
    for elsewhere in (folder, tmp_path, folder / "transformer/sub"):
        elsewhere.mkdir(exist_ok=True)
        shutil.copy(weights, elsewhere / "theirs.safetensors")
    if isinstance(named, str):
        named = named.format(other=tmp_path)
    index = {**dict.fromkeys(load_file(weights), WEIGHTS), "proj_out.bias": named}
    (folder / f"transformer/{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"its index names .*, which is no file in it"):
        load(folder)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": None}], ids=str)
def test_an_index_without_names_is_refused(dev_like: Path, tmp_path: Path, index: object) -> None:
    folder = changed(dev_like, tmp_path / "model")
    (folder / f"transformer/{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"transformer.*: cannot be"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"joint_attention_dim": 41}, "context_embedder.weight"),
        ({"num_layers": 3}, "lacks 32 weights, such as transformer_blocks.2.attn.add_k_proj.bias"),
        ({"num_layers": "two"}, "cannot be loaded"),
        ({"quantization_config": {"quant_method": "torchao"}}, "is quantised"),
    ],
    ids=str,
)
def test_a_transformer_that_is_another_is_refused(
    dev_like: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(changed(dev_like, tmp_path / "model", **config))
