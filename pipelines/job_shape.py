"""How much work a job is for a denoiser: counted here for engines and for routers alike.

Knows no torch and no weights. Neither does it know how long a prompt is once it is encoded, so
whoever asks for tokens says that.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pipelines.contracts import SamplingParams
from pipelines.cuts import Cut
from pipelines.families import family_named
from pipelines.skipping import forwards_of
from pipelines.tasks import PictureRole, Task


class ResumePoint(Protocol):
    """A checkpoint, as far as it says how much is done: `step` forwards, after these cuts."""

    @property
    def step(self) -> int: ...
    @property
    def cuts(self) -> tuple[Cut, ...]: ...


class JobShape(NamedTuple):
    """`forwards` in all, of which `done` are run; each over `segments` of an image and its text.

    An image is `image_tokens` long, and has two segments under true classifier-free guidance.
    `context_tokens` are those of its pictures in each segment, beside image and prompt.
    """

    image_tokens: int
    segments: int
    forwards: int
    done: int = 0
    context_tokens: int = 0

    @property
    def forwards_left(self) -> int:
        return self.forwards - self.done

    def tokens(self, text_tokens: int) -> tuple[int, ...]:
        """Tokens of each segment of one forward, with `text_tokens` of text in each."""
        return (text_tokens + self.image_tokens + self.context_tokens,) * self.segments


def shape_of(
    sampling: SamplingParams,
    *,
    images: int = 1,
    start: ResumePoint | None = None,
) -> JobShape:
    """The shape of `images` drawn so, from noise or from where `start` left them."""
    forwards, family = forwards_of(sampling), family_named(sampling.family)
    return JobShape(
        image_tokens=family.image_tokens(sampling.height, sampling.width),
        segments=images * (2 if sampling.uses_true_cfg else 1),
        forwards=start.cuts[-1].num_steps if start is not None and start.cuts else forwards,
        done=0 if start is None else start.step,
        context_tokens=reference_tokens(sampling) + variation_tokens(sampling),
    )


def reference_sizes(sampling: SamplingParams) -> tuple[tuple[int, int], ...]:
    """(height, width) of what an edit looks at, each more tokens of the image stream.

    An edit inside a mask without a reference looks at its own image, as diffusers'
    `FluxKontextInpaintPipeline` does.
    """
    if sampling.task not in (Task.EDIT, Task.EDIT_INPAINT):
        return ()
    sizes = tuple(
        (use.height, use.width) for use in sampling.pictures if use.role is PictureRole.REFERENCE
    )
    if not sizes and sampling.task is Task.EDIT_INPAINT:
        return ((sampling.height, sampling.width),)
    return sizes


def reference_tokens(sampling: SamplingParams) -> int:
    """R: tokens of all references of an edit."""
    family = family_named(sampling.family)
    return sum(family.image_tokens(*size) for size in reference_sizes(sampling))


def variation_tokens(sampling: SamplingParams) -> int:
    """Tokens that a variation's references add to the text."""
    if sampling.task is not Task.VARIATION:
        return 0
    return family_named(sampling.family).variation_tokens * len(sampling.pictures)
