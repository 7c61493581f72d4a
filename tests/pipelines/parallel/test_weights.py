"""What each rank reads of a transformer, without any process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import Shard

from pipelines.errors import CheckpointError
from pipelines.flux1.checkpoint import load_denoiser_components, open_transformer
from pipelines.parallel.degrees import Degrees
from pipelines.parallel.weights import load_transformer

SUMMED = ("to_out.0.weight", "to_add_out.weight", "net.2.weight")
"""Whose products are added up, so whose inputs are dealt out."""


def load(folder: Path, tensor: int, column: int, row: int = 0) -> Any:
    mesh: Any = SimpleNamespace(
        degrees=Degrees(tensor=tensor, ulysses=2),
        rank=row * tensor + column,
        column=column,
        device=torch.device("cpu"),
    )
    return load_transformer(open_transformer(str(folder)), mesh, "float32")


@pytest.mark.parametrize("tensor", [2, 4])
def test_the_shares_are_those_of_dtensor_and_make_up_the_whole(tensor: int, dev_like: Path) -> None:
    whole = load_denoiser_components(str(dev_like), device="cpu", dtype="float32").transformer
    ranks = [dict(load(dev_like, tensor, column).named_parameters()) for column in range(tensor)]
    split = 0
    for name, weight in whole.named_parameters():
        shares = [rank[name] for rank in ranks if name in rank]
        if shares[0].shape == weight.shape:
            assert all(torch.equal(share, weight) for share in shares), name
            continue
        split += 1
        if name.endswith("proj_out.weight"):  # attention and MLP side by side, each dealt out
            ranges = weight.split([whole.inner_dim, 4 * whole.inner_dim], dim=1)
            dealt = [part.chunk(tensor, dim=1) for part in ranges]
            expected = [torch.cat(parts, dim=1) for parts in zip(*dealt, strict=True)]
        else:
            expected, _ = Shard(1 if name.endswith(SUMMED) else 0)._split_tensor(weight, tensor)
        assert all(torch.equal(*pair) for pair in zip(shares, expected, strict=True)), name
    assert split == 2 * 20 + 2 * 9


def test_only_rank_0_has_modulation_and_text_embedding(dev_like: Path) -> None:
    def count(model: Any) -> int:
        return sum(weight.numel() for weight in model.parameters())

    first, other = load(dev_like, 1, 0), load(dev_like, 1, 0, row=1)
    left_out = {name for name, _ in first.named_parameters()} - {
        name for name, _ in other.named_parameters()
    }
    assert {name.split(".")[0] for name in left_out} == {
        "time_text_embed",
        "context_embedder",
        "norm_out",
        "transformer_blocks",
        "single_transformer_blocks",
    }
    assert all("norm" in name for name in left_out if "blocks" in name)
    width = first.inner_dim
    adaptive = (width + 1) * width * (2 * 2 * 6 + 2 * 3 + 2)
    embedders = [first.time_text_embed, first.context_embedder]
    assert count(first) - count(other) == adaptive + sum(map(count, embedders))


def test_a_folder_that_lacks_weights_is_refused(dev_like: Path) -> None:
    files = open_transformer(str(dev_like))
    some = dict(files.weights)
    del some["x_embedder.weight"]
    mesh: Any = SimpleNamespace(
        degrees=Degrees(tensor=2), rank=1, column=1, device=torch.device("cpu")
    )
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, such as x_embedder\.weight"):
        load_transformer(files._replace(weights=some), mesh, "float32")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        open_transformer(str(tmp_path))
