"""Load one stage's components from a model in the diffusers FLUX.1 folder format.

`source` is a local folder; `deployments.weights` makes one of what is elsewhere. Only safetensors
are read, and no code of the checkpoint is ever run. This file is the only one that knows the names
inside such a folder.

Model libraries are imported where a stage's own parts are loaded: they take seconds, and a process
of one stage needs none of what the others do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from pipelines.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_INDEX = "model_index.json"

TEXT_PARTS = (_INDEX, "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
DENOISER_PARTS = (_INDEX, "scheduler", "transformer")
VAE_PARTS = (_INDEX, "vae")
"""Files and subfolders that each stage reads, and all that must be in its folder."""
_WEIGHTS = "diffusion_pytorch_model.safetensors"

Module = TypeVar("Module", bound=torch.nn.Module)


class TextComponents(NamedTuple):
    """What turns a prompt into conditioning."""

    clip_tokenizer: CLIPTokenizer
    clip: CLIPTextModel
    t5_tokenizer: T5Tokenizer
    t5: T5EncoderModel


class DenoiserComponents(NamedTuple):
    """The transformer and its scheduler's configuration."""

    transformer: FluxTransformer2DModel
    scheduler_config: dict[str, Any]


class TransformerFiles(NamedTuple):
    """A transformer's configuration, its scheduler's, and the file that holds each weight."""

    config: dict[str, Any]
    scheduler_config: dict[str, Any]
    weights: dict[str, Path]


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype called `name`. Raises ConfigurationError."""
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype: {name!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def resolve_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:i`; raises ConfigurationError where CUDA is asked for but missing."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device: {name!r} needs a CUDA device, and none is visible here")
    return device


def load_text_components(source: str, *, device: str, dtype: str) -> TextComponents:
    """Both tokenizers and both text encoders. Raises CheckpointError."""
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    _check_family(source)
    return TextComponents(
        _load(CLIPTokenizer, source, "tokenizer"),
        _load_module(CLIPTextModel, source, "text_encoder", device=device, dtype=dtype),
        _load(T5Tokenizer, source, "tokenizer_2"),
        _load_module(T5EncoderModel, source, "text_encoder_2", device=device, dtype=dtype),
    )


def load_denoiser_components(source: str, *, device: str, dtype: str) -> DenoiserComponents:
    """The transformer and the scheduler's configuration. Raises CheckpointError."""
    from diffusers import FluxTransformer2DModel

    _check_family(source)
    scheduler_config = _scheduler_config(source)
    transformer = _load_module(
        FluxTransformer2DModel, source, "transformer", device=device, dtype=dtype
    )
    return DenoiserComponents(transformer, scheduler_config)


def open_transformer(source: str) -> TransformerFiles:
    """Where a transformer's weights are, to be read in part. Raises CheckpointError."""
    _check_family(source)
    scheduler_config = _scheduler_config(source)
    folder = Path(source) / "transformer"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        index = folder / f"{_WEIGHTS}.index.json"
        if index.exists():
            named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:  # small enough for one file
            with safe_open(folder / _WEIGHTS, framework="pt") as weights:
                named = dict.fromkeys(weights.keys(), _WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{source}/transformer: cannot be loaded: {error}") from error
    return TransformerFiles(
        config, scheduler_config, {name: folder / file for name, file in named.items()}
    )


def load_vae(source: str, *, device: str, dtype: str) -> AutoencoderKL:
    """The VAE, without its encoder, which only editing needs. Raises CheckpointError."""
    from diffusers import AutoencoderKL

    _check_family(source)
    vae = _load_module(AutoencoderKL, source, "vae", device=device, dtype=dtype)
    del vae.encoder
    return vae


def _check_family(source: str) -> None:
    """Refuse anything but a FLUX.1 text-to-image folder before weights are touched."""
    try:
        index = json.loads((Path(source) / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{source}: no readable {_INDEX}; give a local folder in the diffusers format"
            f" ({type(error).__name__})"
        ) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name != "FluxPipeline":
        raise CheckpointError(
            f"{source}: holds {name or 'no pipeline'}, but Sluice serves FluxPipeline folders"
        )


def _scheduler_config(source: str) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return dict(_load(FlowMatchEulerDiscreteScheduler, source, "scheduler").config)


def _load(cls: Any, source: str, subfolder: str, **options: Any) -> Any:
    """`cls.from_pretrained` with its many ways to fail turned into one."""
    try:
        return cls.from_pretrained(source, subfolder=subfolder, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{source}/{subfolder}: cannot be loaded: {error}") from error


def _load_module(cls: type[Module], source: str, subfolder: str, *, device: str, dtype: str) -> Any:
    """A module in evaluation mode on its device.

    transformers says `dtype`, diffusers `torch_dtype`; a text encoder must not fall back to the
    dtype that it was saved in, or it meets the transformer as "Half and Float".
    """
    key = "torch_dtype" if cls.__module__.startswith("diffusers") else "dtype"
    target = resolve_device(device)
    module, report = _load(
        cls,
        source,
        subfolder,
        use_safetensors=True,
        output_loading_info=True,
        **{key: resolve_dtype(dtype)},
    )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{source}/{subfolder}: lacks {len(missing)} weights, such as {missing[0]}, which would"
            " be random; fetch the folder anew"
        )
    return module.to(target).eval().requires_grad_(False)
