"""What crosses from one stage to the next, and nothing else.

Latents are S image tokens of D channels each; what a conditioning holds, the family knows.

The module imports neither torch nor numpy when it runs, so the ingress can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

from pipelines.catalog import DEFAULT_FAMILY
from pipelines.cuts import Cut
from pipelines.finished import FinishedImage, FinishSpec
from pipelines.pictures.encoded import EncodedPicture as EncodedPicture
from pipelines.pictures.encoded import PreparedPicture as PreparedPicture
from pipelines.pictures.recipe import PictureRecipe
from pipelines.prompts.unread_text import UnreadText
from pipelines.prompts.weighting import has_weights, parse_weights
from pipelines.provenance import Provenance
from pipelines.tasks import PictureUse, Task
from pipelines.tracing.spans import Spans, Timed

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What is drawn, but for the words: the same for each image of a request, except the seed.

    `height` and `width` are pixels, multiples of what the `family` (`pipelines.families`) asks for.
    `strength` in 0..1 is how far a task that starts from an image goes back to noise; `pictures`
    are those of the `task`, in the order in which their encodings come.

    Trades of quality, off unless asked for, and one at most: `min_inference_steps` lets the
    scheduler end with fewer steps, but no fewer than that, where it keeps a deadline;
    `planned_cuts` shorten the schedule as such a scheduler did (`pipelines.cuts`);
    `skips_steps` takes some steps without a forward (`pipelines.skipping`).
    """

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    true_cfg_scale: float = 1.0
    seed: int
    min_inference_steps: int | None = None
    planned_cuts: tuple[Cut, ...] = ()
    skips_steps: bool = False
    family: str = DEFAULT_FAMILY
    task: Task = Task.TEXT_TO_IMAGE
    strength: float = 1.0
    pictures: tuple[PictureUse, ...] = ()

    @property
    def uses_true_cfg(self) -> bool:
        """Whether a second, negative, forward is run, given its conditioning."""
        return self.true_cfg_scale > 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams(SamplingParams):
    """One request, normalised: every field has its final value.

    Image i of `num_images` is drawn with a generator of its own, seeded `seed + i`.
    `max_sequence_length` bounds the prompt's tokens; where a family pads, it is the padded length,
    and the padding takes part in the result. With `prompt_weighting`, both prompts are read with
    weights (`pipelines.prompts.weighting`).
    """

    prompt: str
    negative_prompt: str | None = None
    num_images: int = 1
    max_sequence_length: int
    prompt_weighting: bool = False

    @property
    def plain_prompt(self) -> str:
        """The prompt as the text encoders read it. Raises InvalidRequest for bad weights."""
        return parse_weights(self.prompt).text if self.prompt_weighting else self.prompt

    @property
    def weighs_words(self) -> bool:
        """Whether `prompt_weighting` could mean something for what is encoded."""
        negative = self.negative_prompt if self.uses_true_cfg else None
        return has_weights(self.prompt) or has_weights(negative or "")

    @property
    def uses_true_cfg(self) -> bool:
        """Whether a second, negative, forward is run."""
        return self.true_cfg_scale > 1.0 and self.negative_prompt is not None

    def image_sampling(self, index: int) -> SamplingParams:
        """Those of image `index`: its own seed, and no true guidance without a negative prompt."""
        own = {each.name: getattr(self, each.name) for each in fields(SamplingParams)}
        own["seed"] += index
        if not self.uses_true_cfg:
            own["true_cfg_scale"] = 1.0
        return SamplingParams(**own)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTerms:
    """Whose a request is, and when it is wanted.

    `deadline` is Unix time in seconds, as clocks of different machines agree on no other; None is
    none. A larger `priority` goes first where not all can be on time. With `refuses_late`, a
    deadline that cannot be kept is an error at once; without, the request is served all the same.
    With `is_promised` that was decided before, and later requests must not break it.
    """

    tenant: str = ""
    deadline: float | None = None
    priority: int = 0
    refuses_late: bool = False
    is_promised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """What the text encoder is asked for: two equal ones are encoded once.

    The tenant is part of that, as nobody may learn from the time what others ask for. With
    `is_blank` no text at all is meant, zeros: a variation without a prompt, whose `prompt` is "".
    One that `is_weighted` has weights of words in it (`pipelines.prompts.weighting`).
    """

    prompt: str
    max_sequence_length: int
    tenant: str = ""
    is_blank: bool = False
    is_weighted: bool = False


class TokenGroup(NamedTuple):
    """Tokens of one kind in the packed sequence, such as "text"."""

    name: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning(Timed):
    """What the denoiser needs to know of a prompt.

    The `tensors` are named by the family, and of the encoder's dtype; the `groups` are the tokens
    that they become, in the order of the sequence, with padding where the family pads.
    `num_tokens` counts the tokens of the prompt that were used, end mark included, padding not.
    """

    tensors: Mapping[str, torch.Tensor]
    groups: tuple[TokenGroup, ...]
    num_tokens: int
    unread: UnreadText = field(default_factory=UnreadText)

    @property
    def sequence_length(self) -> int:
        """Tokens of all groups: what a segment has beside its image's."""
        return sum(group.num_tokens for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentJob:
    """One image for the denoiser: everything but the conditionings.

    `work_id` is unique; `group` is the request that it belongs to, of `num_images` in all. The seed
    in `sampling` is this image's own; its `true_cfg_scale` counts only with a negative
    conditioning. The deadline in `terms` is that of the latents: what decoding and storing need is
    already taken off. `trace` is the `traceparent` under which spans are kept, "" to keep none.
    """

    work_id: str
    group: str
    sampling: SamplingParams
    terms: ServiceTerms = ServiceTerms()
    num_images: int = 1
    trace: str = ""

    @classmethod
    def of(
        cls,
        params: GenerationParams,
        index: int,
        *,
        group: str,
        work_id: str,
        terms: ServiceTerms = ServiceTerms(),
        trace: str = "",
    ) -> LatentJob:
        """Image `index` of a request."""
        return cls(
            work_id=work_id,
            group=group,
            sampling=params.image_sampling(index),
            terms=terms,
            num_images=params.num_images,
            trace=trace,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """One denoising step of one work is done: `step` of `num_steps`, counted from 1."""

    work_id: str
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A trajectory between two ticks: with its job and conditionings, all that it needs to go on.

    `latents` (S, D) on the CPU, in the denoiser's dtype, after `step` forwards. `cuts` are the
    changes made to the schedule so far. `velocity` (S, D) is the one predicted last, kept only
    where a later step extrapolates from it (`skips_steps`). `device_seconds` are those of all
    engines that worked on it, `spans` those so far of the one that made it.
    """

    work_id: str
    step: int
    latents: torch.Tensor
    cuts: tuple[Cut, ...] = ()
    velocity: torch.Tensor | None = None
    device_seconds: float = 0.0
    spans: Spans = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents(Timed):
    """Packed (S, D), of `height` x `width` pixels; `steps_run` forwards have made them, with the
    job's schedule changed by `cuts` on the way.

    `device_seconds` are the seconds of all its ticks, each shared out by tokens among the works
    that it stepped.
    """

    packed: torch.Tensor
    height: int
    width: int
    steps_run: int
    cuts: tuple[Cut, ...] = ()
    device_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage(Timed):
    """RGB pixels (height, width, 3), uint8, checked to be finite and not all one value; `drawn_by`
    are the stages that made them, for their receipt."""

    pixels: np.ndarray
    drawn_by: Provenance = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyVerdict(Timed):
    """The image classifier's answer: `flagged` is `score >= threshold`, both in 0..1."""

    flagged: bool
    category: str
    score: float
    threshold: float
    classifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """One request as the ingress hands it to the graph.

    `finish` describes every image of the request (its `seed` is the first image's). `recipes` are
    those of `params.pictures`, in their order. `trace` is the `traceparent` under which its spans
    are kept, "" to keep none; `trace_id` is for the log.
    """

    request_id: str
    params: GenerationParams
    finish: FinishSpec
    recipes: tuple[PictureRecipe, ...] = ()
    terms: ServiceTerms = ServiceTerms()
    trace: str = ""
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens in, of texts (negative prompt included) and of pictures, the `input_image_tokens`
    among them; latent tokens out; and the denoiser's part of the work: its seconds
    (`Latents.device_seconds`), and forwards times pixels in 1e6, of all images.
    """

    input_tokens: int
    output_tokens: int
    device_seconds: float = 0.0
    megapixel_steps: float = 0.0
    input_image_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult(Timed):
    """All images of a request, in order, and the slowest one's timings. `resumed_at` are the steps
    at which images went on elsewhere, `cold_stages` those whose start the request waited for."""

    images: tuple[FinishedImage, ...]
    usage: Usage
    warnings: tuple[str, ...] = ()
    resumed_at: tuple[int, ...] = ()
    cold_stages: tuple[str, ...] = ()
