"""Which files of a model belong to a part of it, and are ever fetched or accepted.

A part is a subfolder of the diffusers layout, such as "vae", or a file at the root, or "." for all
that is at the root, as an image classifier has it. Weights are safetensors under the names that
the libraries load; configurations and tokenizers are JSON, text and SentencePiece. Nothing else:
no pickles, no code, no second precision of the same weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from pipelines.errors import CheckpointError

MANIFEST = "sluice-weights.json"
"""The file at the root that has size and SHA-256 of all others; see `manifest.py`."""

_STEM = r"(diffusion_pytorch_model|model)"
_WEIGHTS = re.compile(rf"{_STEM}(-\d{{5}}-of-\d{{5}})?\.safetensors")
_INDEX = re.compile(rf"{_STEM}\.safetensors\.index\.json")
_OTHERS = re.compile(r"[\w.-]+\.(json|txt|model)", re.ASCII)
_WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def is_ours(path: str) -> bool:
    """Whether the file could belong to a part."""
    name = PurePosixPath(path).name
    if name.endswith(".index.json"):
        return _INDEX.fullmatch(name) is not None
    return bool(_WEIGHTS.fullmatch(name) or _OTHERS.fullmatch(name)) and path != MANIFEST


def files_of(part: str, paths: Iterable[str], *, source: object) -> list[str]:
    """The files of `part` among the relative `paths` of the source.

    Raises CheckpointError if the part is missing, or has no safetensors though it should.
    """
    paths = list(paths)
    if part in paths:
        return [part]
    names = sorted(path for path in paths if str(PurePosixPath(path).parent) == part)
    wanted = [path for path in names if is_ours(path)]
    has_weights = any(path.endswith(".safetensors") for path in wanted)
    if pickles := [path for path in names if path.endswith(_PICKLES) and not has_weights]:
        raise CheckpointError(
            f"{source}: the weights of {part} are in {pickles[0]}, and pickles are never read;"
            " convert them to safetensors, as save_pretrained writes them"
        )
    if not wanted:
        raise CheckpointError(f"{source}: {part} is missing")
    if not has_weights and not part.startswith(_WITHOUT_WEIGHTS):
        raise CheckpointError(f"{source}: {part} is not complete: it has no *.safetensors")
    return wanted


def listing(folder: Path) -> list[str]:
    """The relative paths of the files in `folder` and its subfolders."""
    return [
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.is_file()
    ]


def check_structure(folder: Path, paths: Iterable[str], *, source: object) -> None:
    """Weights are as long as their headers say, and indices name files that are there.

    Raises CheckpointError naming the file.
    """
    for path in paths:
        if path.endswith(".safetensors"):
            try:
                with safe_open(folder / path, framework="np"):
                    pass
            except (SafetensorError, OSError) as error:
                size = (folder / path).stat().st_size if (folder / path).exists() else 0
                raise CheckpointError(
                    f"{source}: {path} is damaged: its {size} bytes are not what its header says"
                    f" ({error}); copy it anew"
                ) from error
        elif path.endswith(".index.json"):
            _check_shards(folder, path, source)


def _check_shards(folder: Path, path: str, source: object) -> None:
    try:
        shards = set(json.loads((folder / path).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: {path} is damaged: not an index of weights; copy it anew"
        ) from error
    for shard in sorted(map(str, shards)):
        beside = (PurePosixPath(path).parent / shard).as_posix()
        if not _WEIGHTS.fullmatch(shard):
            raise CheckpointError(f"{source}: {path} names {shard}, which is no safetensors shard")
        if not (folder / beside).is_file():
            raise CheckpointError(f"{source}: {beside} is missing, though {path} names it")
