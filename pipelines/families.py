"""Families of models: what differs between them is asked here, never assumed elsewhere.

A `ModelSpec`, and each job, names its family. What a `Family` tells, how an image becomes tokens,
what its files are, what memory its parts take, needs no torch, so routers and the ingress may ask.
Its loaders give the parts that the stages run: a `PromptEncoder`, an `ImageEncoder`, a `FlowModel`
and a `LatentDecoder`. A family is found by its import path, and imported when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipelines.catalog import ModelSpec
from pipelines.cuts import Cut
from pipelines.errors import ConfigurationError
from pipelines.tiling import Tiling

if TYPE_CHECKING:
    import torch

    from pipelines.begin import ActiveControl, Begin
    from pipelines.contracts import (
        Conditioning,
        EncodedPicture,
        PreparedPicture,
        SamplingParams,
    )
    from pipelines.packing.layout import Layout, PackedBatch, RotaryTable, SegmentShape
    from pipelines.prompts.weighting import WeightedText
    from pipelines.sampling import Schedule

_IMPORT_PATHS = {"flux1": "pipelines.flux1.family:FAMILY"}
"""Where each family is, by name."""


class ModelParts(Protocol):
    """What a model consists of, counted before anything is loaded. Weights are numbers of values,
    `*_bytes` estimates of memory beside them; `itemsize` is in bytes."""

    @property
    def text_weights(self) -> int: ...
    @property
    def transformer_weights(self) -> int: ...
    @property
    def decoder_weights(self) -> int: ...
    @property
    def encoder_weights(self) -> int:
        """Of the image encoder."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads of the transformer, which ranks share."""
        ...

    def encode_bytes(self, *, batch: int, tokens: int) -> int:
        """Of encoding `batch` prompts of `tokens` tokens together."""
        ...

    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles in which the VAE can work; 0: in none."""
        ...

    def decode_bytes(
        self, *, batch: int, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        """Of decoding `batch` images of up to `pixels` pixels together, tiled as `tiling` says."""
        ...

    def encode_image_bytes(
        self, *, pixels: int, itemsize: int, tiling: Tiling | None = None
    ) -> int:
        """Of encoding one image of up to `pixels` pixels."""
        ...

    def tick_bytes(self, *, tokens: int, itemsize: int, tensor: int, ulysses: int) -> int:
        """Of a packed forward, on each of `tensor` x `ulysses` ranks."""
        ...

    def trajectory_bytes(
        self,
        *,
        text: int,
        image: int,
        segments: int,
        num_steps: int,
        itemsize: int,
        skips_steps: bool,
    ) -> int:
        """Of one image under way, from its admission to its last step."""
        ...

    def first_rank_weights(self, tensor: int) -> int:
        """Weights of the transformer on the rank that has most, of `tensor` that share it."""
        ...


class EmbeddedText(NamedTuple):
    """A conditioning inside the model: `txt` (L, d) for its token streams, and whatever its
    modulation sees of the text, such as a pooled vector (P,); None if nothing."""

    txt: torch.Tensor
    pooled: torch.Tensor | None


class PromptEncoder(Protocol):
    """Loaded text encoders with their tokenizers: what the text encoder stage asks of them."""

    def encode(self, texts: Sequence[WeightedText], length: int) -> list[Conditioning]:
        """One for each text, in order; `length` is the most tokens that one may have."""
        ...

    def blank(self, length: int) -> Conditioning:
        """No text at all, of `length` tokens: what a variation without a prompt has."""
        ...


class ImageEncoder(Protocol):
    """A loaded encoder of pictures: what the image encoder stage asks of it."""

    @property
    def device(self) -> torch.device: ...
    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles in which it can work (`pipelines.tiling`); 0: in none."""
        ...

    def picture_bytes(self, pixels: int) -> int:
        """Device memory that a picture of so many pixels takes, whole, beyond weights."""
        ...

    def encode(self, picture: PreparedPicture, *, tiled: bool = False) -> EncodedPicture:
        """One picture that is no mask, in tiles if so. Raises UnsupportedFeature for one that
        becomes text where there is no model for that."""
        ...


class FlowModel(Protocol):
    """A loaded transformer with its schedule: what the denoiser stage asks of it.

    Shapes as in `pipelines.packing.layout`; S are the image tokens of one image.
    """

    @property
    def family(self) -> Family: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def latent_width(self) -> int:
        """D, the channels of one image token."""
        ...

    def check_conditionings(self, conditionings: Sequence[Conditioning]) -> None:
        """Raises InvalidRequest unless one trajectory's conditionings, the prompt's first, fit the
        model and each other; DegenerateImage if they are not finite."""
        ...

    def random_conditioning(self, text_tokens: int) -> Conditioning:
        """Text that means nothing, of the right widths: for measuring how long ticks take."""
        ...

    def check_can_cut(self, param: str) -> None:
        """Raises UnsupportedFeature, naming the request's field, where schedules cannot be cut."""
        ...

    def check_task(self, sampling: SamplingParams) -> None:
        """Raises UnsupportedFeature for a task that the model's weights are not for, and for
        control maps that none of its ControlNets follows."""
        ...

    def schedule(self, num_steps: int, image_tokens: int, skips_steps: bool) -> Schedule:
        """The noise levels of a trajectory."""
        ...

    def cut_schedule(self, before: Schedule, cut: Cut, image_tokens: int) -> Schedule:
        """`before` with its rest laid out anew. Raises ValueError unless that shortens it,
        UnsupportedFeature as `check_can_cut`."""
        ...

    def noise(self, seed: int, height: int, width: int) -> torch.Tensor:
        """Starting latents (S, D), the same on every device."""
        ...

    def begin(
        self,
        sampling: SamplingParams,
        schedule: Schedule,
        positive: Conditioning,
        pictures: Sequence[EncodedPicture],
    ) -> Begin:
        """What a job draws from that has pictures, those of `sampling.pictures` in their order.

        All is drawn from one generator with the job's seed. Raises InvalidRequest for pictures that
        do not fit the job, UnsupportedFeature for a task that the model cannot do.
        """
        ...

    def needed(self, sampling: SamplingParams) -> tuple[SamplingParams, list[EncodedPicture]]:
        """`sampling` with random pictures, if the model draws nothing without: for measuring."""
        ...

    def unpacked(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Latents (S, D) of an image of this size, rearranged to (C, h, w)."""
        ...

    def rotary(
        self,
        text_tokens: int,
        height: int,
        width: int,
        references: tuple[tuple[int, int], ...] = (),
    ) -> RotaryTable:
        """Rotary factors of one segment's text, image, and references of (height, width) pixels."""
        ...

    def embed(self, conditioning: Conditioning) -> EmbeddedText:
        """The conditioning as the blocks take it, on the device: once per trajectory."""
        ...

    def modulation(
        self, schedule: Schedule, first: int, guidance_scale: float, pooled: torch.Tensor | None
    ) -> torch.Tensor:
        """(N - first, M): modulation of the forwards from `first` on, in one product."""
        ...

    def layout(self, shapes: Sequence[SegmentShape]) -> Layout:
        """Where the tokens of segments with these shapes stand."""
        ...

    def velocity(self, batch: PackedBatch, controls: Sequence[ActiveControl] = ()) -> torch.Tensor:
        """Predicted velocities (I, D) of every image token in the batch, with what `controls` say
        of some of its segments."""
        ...

    def guide(self, positive: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
        """The guided velocity (S, D) out of those of the prompt and the negative prompt."""
        ...

    def trajectory_bytes(
        self, shapes: Sequence[SegmentShape], *, num_steps: int, skips_steps: bool
    ) -> int:
        """Device memory of an admitted trajectory, but for `picture_bytes`."""
        ...

    def control_tokens(self, sampling: SamplingParams, text_tokens: int) -> tuple[int, ...]:
        """What each control map costs in a step, in tokens of the transformer itself."""
        ...

    def picture_bytes(self, sampling: SamplingParams, text_tokens: int, num_steps: int) -> int:
        """Device memory that pictures take of an admitted trajectory, beyond their tokens."""
        ...

    def tick_bytes(self, tokens: int) -> int:
        """Device memory of a packed forward at its peak, beyond weights and trajectories."""
        ...


class LatentDecoder(Protocol):
    """A loaded decoder of latents: what the VAE decoder stage asks of it."""

    @property
    def device(self) -> torch.device: ...
    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles in which it can work (`pipelines.tiling`); 0: in none."""
        ...

    def batch_bytes(self, batch: int, pixels: int) -> int:
        """Device memory that so many images of so many pixels take, whole, beyond weights."""
        ...

    def decode(
        self, latents: Sequence[torch.Tensor], height: int, width: int, *, tiled: bool = False
    ) -> torch.Tensor:
        """(B, 3, height, width) around -1..1, from packed latents (S, D) of one size; in tiles if
        so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that share their code.

    An image token is a square of `size_multiple` pixels, and so sizes are multiples of it. The
    `*_files` are what a stage needs of a model's folder. The loaders take a local folder, a device
    and a dtype by name, and raise CheckpointError and ConfigurationError; `load_flow_model` takes
    the `attention` back end, whether to `compile`, and `controlnets`, folders of ControlNets with
    the kinds of maps that each follows (`pipelines.catalog.ControlNetSource`); `load_image_encoder`
    takes `variations`, the folder of a model that makes text tokens of pictures, or None.
    `parts_of` counts a model's parts. `shards` says whether `pipelines.parallel` can split the
    transformer over several ranks. `variation_tokens` are what a variation's picture adds to text.
    `weighs_words` says whether words of a prompt can count more or less than others.
    """

    name: str
    size_multiple: int
    text_files: tuple[str, ...]
    transformer_files: tuple[str, ...]
    decoder_files: tuple[str, ...]
    encoder_files: tuple[str, ...]
    load_prompt_encoder: Callable[..., PromptEncoder]
    load_flow_model: Callable[..., FlowModel]
    load_latent_decoder: Callable[..., LatentDecoder]
    load_image_encoder: Callable[..., ImageEncoder]
    parts_of: Callable[[ModelSpec], ModelParts]
    shards: bool
    variation_tokens: int = 0
    weighs_words: bool = False

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens of one image of `height` x `width` pixels, multiples of `size_multiple`."""
        return (height // self.size_multiple) * (width // self.size_multiple)

    def text_tokens(self, spec: ModelSpec) -> int:
        """The most tokens that a prompt of `spec` has in one segment."""
        return spec.max_sequence_length


def family_of(spec: ModelSpec) -> Family:
    """The family that `spec` names. Raises ConfigurationError if there is none."""
    return family_named(spec.family)


@cache
def family_named(name: str) -> Family:
    """The family called `name`. Raises ConfigurationError if there is none."""
    if name not in _IMPORT_PATHS:
        raise ConfigurationError(
            f"family: no family is called {name!r}; known: {', '.join(_IMPORT_PATHS)}"
        )
    module, _, attribute = _IMPORT_PATHS[name].partition(":")
    return getattr(import_module(module), attribute)


def register(name: str, import_path: str) -> None:
    """Make a family known that is not Sluice's own; `import_path` is "module:attribute".

    Every process that serves it has to. Raises ConfigurationError for a name that is taken.
    """
    if _IMPORT_PATHS.setdefault(name, import_path) != import_path:
        raise ConfigurationError(f"family: {name!r} is {_IMPORT_PATHS[name]} already")
