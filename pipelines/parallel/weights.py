"""One rank's weights, read as slices: no rank holds more of the transformer than it uses.

How a block is split is the transformer's own plan, `FluxTransformer2DModel._tp_plan`, as diffusers
resolves it: heads and hidden values by rows, what is summed by columns, the single blocks' joint
output by two ranges of columns. What becomes of modulation and of text is computed on rank 0 alone,
so only there are those weights loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks.tensor_parallel import TPShardSpec, resolve_tp_shard_specs
from safetensors import SafetensorError, safe_open
from torch import nn

from pipelines.devices import resolve_dtype
from pipelines.errors import CheckpointError
from pipelines.flux1.checkpoint import TransformerFiles
from pipelines.parallel.degrees import spans
from pipelines.parallel.mesh import RankMesh

_OF_RANK_0 = ("time_text_embed", "context_embedder", "norm_out.linear")
_OF_RANK_0_BY_BLOCK = {
    "transformer_blocks": ("norm1.linear", "norm1_context.linear"),
    "single_transformer_blocks": ("norm.linear",),
}


def load_transformer(files: TransformerFiles, mesh: RankMesh, dtype: str) -> FluxTransformer2DModel:
    """The transformer with this rank's weights, on its device.

    Raises CheckpointError.
    """
    with torch.device("meta"):
        model: Any = FluxTransformer2DModel.from_config(files.config)
    specs = resolve_tp_shard_specs(model, model._tp_plan, mesh.degrees.tensor)
    if mesh.rank:
        for path in _paths_of_rank_0(model):
            parent, _, name = path.rpartition(".")
            delattr(model.get_submodule(parent), name)
    names = [name for name, _ in model.named_parameters()]
    if missing := sorted(set(names) - set(files.weights)):
        raise CheckpointError(
            f"transformer: lacks {len(missing)} weights, such as {missing[0]}, which would be"
            " random; fetch the folder anew"
        )
    by_file: defaultdict[Path, list[str]] = defaultdict(list)
    for name in names:
        by_file[files.weights[name]].append(name)
    try:
        for path, inside in by_file.items():
            with safe_open(path, framework="pt") as opened:
                for name in inside:
                    weight = _read(opened.get_slice(name), specs.get(name), mesh)
                    _set(model, name, weight.to(mesh.device, resolve_dtype(dtype)))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"transformer: cannot be loaded: {error}") from error
    return model.eval()


def _paths_of_rank_0(model: Any) -> Iterator[str]:
    yield from _OF_RANK_0
    for blocks, norms in _OF_RANK_0_BY_BLOCK.items():
        for index in range(len(getattr(model, blocks))):
            yield from (f"{blocks}.{index}.{norm}" for norm in norms)


def _read(stored: Any, spec: TPShardSpec | None, mesh: RankMesh) -> torch.Tensor:
    """A stored weight, or this rank's slices of it."""
    if spec is None or spec.dim is None or mesh.degrees.tensor == 1:
        return stored[:]
    own = _own(spec, mesh)
    parts = [stored[span] if spec.dim == 0 else stored[:, span] for span in own]
    return torch.cat(parts, dim=spec.dim)


def _own(spec: TPShardSpec, mesh: RankMesh) -> list[slice]:
    """This rank's part of each range that is dealt out on its own."""
    assert spec.block_sizes is not None
    sizes = [size // mesh.degrees.tensor for size in spec.block_sizes]
    starts = [
        block.start + mesh.column * size
        for block, size in zip(spans(spec.block_sizes), sizes, strict=True)
    ]
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _set(model: nn.Module, name: str, weight: torch.Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(weight, requires_grad=False))
