"""Load one stage's components from a model in the diffusers FLUX.1 folder format.

`source` is a local folder; `deployments.weights` makes one of what is elsewhere. Only safetensors
are read, and no code of the checkpoint is ever run. This file is the only one that knows the names
inside such a folder.

The transformer and the VAE are modules of ours; transformers is imported where text encoders are
loaded, and diffusers not at all: both take seconds, and most processes need neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from pipelines.devices import resolve_device, resolve_dtype
from pipelines.errors import CheckpointError
from pipelines.flux1.autoencoder import FluxVae, VaeConfig
from pipelines.flux1.components import read_json
from pipelines.flux1.modules import FluxControlNet, FluxTransformer, TransformerConfig
from pipelines.flux1.noise_levels import check_scheduler
from pipelines.flux1.redux import FluxRedux, ReduxEmbedder
from pipelines.flux1.vae_encoder import FluxVaeEncoder
from pipelines.self_contained import check_self_contained, offline

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

_INDEX = "model_index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX_OF_WEIGHTS = f"{_WEIGHTS}.index.json"

_PIPELINES = ("FluxPipeline", "FluxKontextPipeline", "FluxFillPipeline", "FluxControlPipeline")
"""Whose folders hold all parts of a FLUX.1 model."""
_REDUX_PIPELINE = "FluxPriorReduxPipeline"

Module = TypeVar("Module", bound=torch.nn.Module)


class TextComponents(NamedTuple):
    """What turns a prompt into conditioning."""

    clip_tokenizer: CLIPTokenizer
    clip: CLIPTextModel
    t5_tokenizer: T5Tokenizer
    t5: T5EncoderModel


class DenoiserComponents(NamedTuple):
    """The transformer and its scheduler's configuration."""

    transformer: FluxTransformer
    scheduler_config: dict[str, Any]


class TransformerFiles(NamedTuple):
    """A transformer's configuration, its scheduler's, and the file that holds each weight."""

    config: dict[str, Any]
    scheduler_config: dict[str, Any]
    weights: dict[str, Path]


def load_text_components(source: str, *, device: str, dtype: str) -> TextComponents:
    """Both tokenizers and both text encoders. Raises CheckpointError."""
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    _check_family(source)
    return TextComponents(
        _load_tokenizer(CLIPTokenizer, source, "tokenizer"),
        _load_encoder(CLIPTextModel, source, "text_encoder", device=device, dtype=dtype),
        _load_tokenizer(T5Tokenizer, source, "tokenizer_2"),
        _load_encoder(T5EncoderModel, source, "text_encoder_2", device=device, dtype=dtype),
    )


def load_denoiser_components(source: str, *, device: str, dtype: str) -> DenoiserComponents:
    """The transformer and the scheduler's configuration. Raises CheckpointError."""
    config, scheduler_config, weights = open_transformer(source)
    transformer = _load_own(
        lambda: FluxTransformer(TransformerConfig.of(config)),
        weights,
        f"{source}/transformer",
        device=device,
        dtype=dtype,
    )
    return DenoiserComponents(transformer, scheduler_config)


def open_transformer(source: str) -> TransformerFiles:
    """Where a transformer's weights are, to be read in part. Raises CheckpointError."""
    _check_family(source)
    scheduler_config = _scheduler_config(source)
    config, weights = _open(f"{source}/transformer")
    return TransformerFiles(config, scheduler_config, weights)


def load_vae(source: str, *, device: str, dtype: str) -> FluxVae:
    """The VAE without its encoder. Raises CheckpointError."""
    _check_family(source)
    config, weights = _open(f"{source}/vae")
    return _load_own(
        lambda: FluxVae(VaeConfig.of(config)), weights, f"{source}/vae", device=device, dtype=dtype
    )


def load_vae_encoder(source: str, *, device: str, dtype: str) -> FluxVaeEncoder:
    """The VAE without its decoder. Raises CheckpointError."""
    _check_family(source)
    config, weights = _open(f"{source}/vae")
    return _load_own(
        lambda: FluxVaeEncoder(VaeConfig.of(config)),
        weights,
        f"{source}/vae",
        device=device,
        dtype=dtype,
    )


def load_redux(source: str, *, device: str, dtype: str) -> FluxRedux:
    """What makes text tokens of pictures, of a FLUX.1 Redux folder. Raises CheckpointError."""
    from transformers import SiglipVisionModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    _check_family(source, (_REDUX_PIPELINE,))
    config, weights = _open(f"{source}/image_embedder")
    widths = {name: config[name] for name in ("redux_dim", "txt_in_features") if name in config}
    return FluxRedux(
        _load(SiglipImageProcessorPil, source, "feature_extractor"),
        _load_encoder(SiglipVisionModel, source, "image_encoder", device=device, dtype=dtype),
        _load_own(
            lambda: ReduxEmbedder(**widths),
            weights,
            f"{source}/image_embedder",
            device=device,
            dtype=dtype,
        ),
    )


def load_controlnet(folder: str, *, device: str, dtype: str) -> FluxControlNet:
    """A ControlNet's own folder. Raises CheckpointError, also for the kind of XLabs, which takes
    pixels instead of latents."""
    config, weights = _open(folder)
    if (found := config.get("_class_name")) != "FluxControlNetModel":
        raise CheckpointError(f"{folder}: holds {found or 'no model'}, and no FluxControlNetModel")
    if config.get("conditioning_embedding_channels") is not None:
        raise CheckpointError(
            f"{folder}: is a ControlNet that takes pixels (conditioning_embedding_channels), which"
            " is not supported; use one that takes latents, as InstantX's and Shakker's do"
        )
    return _load_own(
        lambda: FluxControlNet(TransformerConfig.of(config), config.get("num_mode")),
        weights,
        folder,
        device=device,
        dtype=dtype,
    )


def _check_family(source: str, pipelines: Sequence[str] = _PIPELINES) -> None:
    """Refuse anything but a FLUX.1 folder of these pipelines before weights are touched."""
    try:
        index = json.loads((Path(source) / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{source}: no readable {_INDEX}; give a local folder in the diffusers format"
            f" ({type(error).__name__})"
        ) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name not in pipelines:
        raise CheckpointError(
            f"{source}: holds {name or 'no pipeline'}, but Sluice serves {' and '.join(pipelines)}"
            " folders"
        )


def _scheduler_config(source: str) -> dict[str, Any]:
    config = read_json(Path(source) / "scheduler" / "scheduler_config.json")
    check_scheduler(config)
    return config


def _open(folder: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """A component's configuration, and the file that holds each of its weights."""
    path = Path(folder)
    check_self_contained(path, source=folder)
    config = read_json(path / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(f"{folder}: is quantised, which is not supported; give plain weights")
    try:
        if (path / _INDEX_OF_WEIGHTS).exists():
            named = _names_of_files(read_json(path / _INDEX_OF_WEIGHTS), folder)
        else:  # small enough for one file
            with safe_open(path / _WEIGHTS, framework="pt") as weights:
                named = dict.fromkeys(weights.keys(), _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    return config, {name: path / file for name, file in named.items()}


def _names_of_files(index: dict[str, Any], folder: str) -> dict[str, str]:
    """Which file of `folder` has each weight, as an index says. Nothing else is opened."""
    named = index.get("weight_map")
    if not isinstance(named, dict):
        raise CheckpointError(f"{folder}: cannot be loaded: {_INDEX_OF_WEIGHTS} has no weight_map")
    for file in named.values():
        if not isinstance(file, str) or file in ("", "..") or Path(file).name != file:
            raise CheckpointError(f"{folder}: its index names {file!r}, which is no file in it")
    return named


def _load_own(
    make: Callable[[], Module], files: dict[str, Path], folder: str, *, device: str, dtype: str
) -> Module:
    """One of our modules, in evaluation mode on its device, tensor by tensor.

    Weights that it has no use for, such as the other half of a VAE, are not read.
    """
    target, target_dtype = resolve_device(device), resolve_dtype(dtype)
    try:
        with torch.device("meta"):
            module = make()
        names = list(module.state_dict())
        _check_complete(sorted(set(names) - set(files)), folder)
        weights: dict[str, torch.Tensor] = {}
        for path in sorted({files[name] for name in names}):
            with safe_open(path, framework="pt") as opened:
                for name in names:
                    if files[name] == path:
                        weights[name] = opened.get_tensor(name).to(target, target_dtype)
        module.load_state_dict(weights, assign=True)
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    return module.eval().requires_grad_(False)


def _load(cls: Any, source: str, subfolder: str, **options: Any) -> Any:
    """`cls.from_pretrained` with its many ways to fail turned into one; it asks no hub."""
    check_self_contained(Path(source) / subfolder, source=f"{source}/{subfolder}")
    try:
        with offline():
            return cls.from_pretrained(
                source, subfolder=subfolder, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(f"{source}/{subfolder}: cannot be loaded: {error}") from error


def _load_tokenizer(cls: Any, source: str, subfolder: str) -> Any:
    """A tokenizer; from a folder without its vocabulary the library would make an empty one."""
    if not any((Path(source) / subfolder / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(
            f"{source}/{subfolder}: has no vocabulary, which is one of {', '.join(_VOCABULARIES)}"
        )
    return _load(cls, source, subfolder)


def _load_encoder(
    cls: type[Module], source: str, subfolder: str, *, device: str, dtype: str
) -> Any:
    """A model of transformers in evaluation mode on its device.

    It must not fall back to the dtype that it was saved in, or it meets the transformer as "Half
    and Float".
    """
    target = resolve_device(device)
    module, report = _load(
        cls,
        source,
        subfolder,
        use_safetensors=True,
        output_loading_info=True,
        dtype=resolve_dtype(dtype),
    )
    _check_complete(sorted(report["missing_keys"]), f"{source}/{subfolder}")
    return module.to(target).eval().requires_grad_(False)


def _check_complete(missing: list[str], folder: str) -> None:
    if missing:
        raise CheckpointError(
            f"{folder}: lacks {len(missing)} weights, such as {missing[0]}, which would be random;"
            " fetch the folder anew"
        )
