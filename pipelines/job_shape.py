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


class ResumePoint(Protocol):
    """A checkpoint, as far as it says how much is done: `step` forwards, after these cuts."""

    @property
    def step(self) -> int: ...
    @property
    def cuts(self) -> tuple[Cut, ...]: ...


class JobShape(NamedTuple):
    """`forwards` in all, of which `done` are run; each over `segments` of an image and its text.

    An image is `image_tokens` long, and has two segments under true classifier-free guidance.
    """

    image_tokens: int
    segments: int
    forwards: int
    done: int = 0

    @property
    def forwards_left(self) -> int:
        return self.forwards - self.done

    def tokens(self, text_tokens: int) -> tuple[int, ...]:
        """Tokens of each segment of one forward, with `text_tokens` of text in each."""
        return (text_tokens + self.image_tokens,) * self.segments


def shape_of(
    sampling: SamplingParams,
    *,
    images: int = 1,
    start: ResumePoint | None = None,
) -> JobShape:
    """The shape of `images` drawn so, from noise or from where `start` left them."""
    forwards = forwards_of(sampling)
    return JobShape(
        image_tokens=family_named(sampling.family).image_tokens(sampling.height, sampling.width),
        segments=images * (2 if sampling.uses_true_cfg else 1),
        forwards=start.cuts[-1].num_steps if start is not None and start.cuts else forwards,
        done=0 if start is None else start.step,
    )
