"""ProgressReporter: how far an image of a request is, as the graph sees it, for whoever listens.

Conditionings and pixels go from stage to stage by reference, so two seams are not seen from here:
an image is "encode" until its denoiser has told of a step, and "decode" while it is classified.
Steps are told with each checkpoint, and twice a second in between if somebody listened when the
denoiser was asked.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.graph.listening.events import ImagePreview, Phase, Progress
from deployments.graph.listening.listener import Listener, tell
from deployments.wire.packed import PackedCheckpoint, PromptFacts
from deployments.wire.parts import ImageCheckpoint, ImageDrawn
from pipelines.contracts import FinishedImage, GenerationParams
from pipelines.job_shape import shape_of
from pipelines.previews.preview import Preview

_ORDER = list(Phase)


class ProgressReporter:
    """Tells `listener` of one image. What is done again, as a replica was lost, is not told again:
    an image never goes back. One that goes on from `start` has been told of until there."""

    def __init__(
        self,
        image: int,
        params: GenerationParams,
        listener: Listener,
        *,
        start: PackedCheckpoint | None = None,
    ) -> None:
        self._image = image
        self._listener = listener
        self._num_forwards = shape_of(params).forwards
        shape = shape_of(params, start=start)
        self._step, self._num_steps = shape.done, shape.forwards
        self._checkpointed = self._step
        self._reached = (-1, 0)

    @property
    def wants_steps(self) -> bool:
        """Whether anybody wants to know of each step, as it is now."""
        return self._listener.wants_steps

    def enters(self, phase: Phase) -> None:
        """Tell that the image is in `phase` from now on."""
        self._tell(phase)

    def stepped(self, step: int, num_steps: int) -> None:
        """`step` forwards of `num_steps` are done."""
        if step > self._step:
            self._step, self._num_steps = step, num_steps
            self._tell(Phase.DENOISE)

    def checkpointed(self, checkpoint: PackedCheckpoint) -> None:
        """It would go on from there."""
        cuts = checkpoint.cuts
        self.stepped(checkpoint.step, cuts[-1].num_steps if cuts else self._num_forwards)
        if checkpoint.step > self._checkpointed:
            self._checkpointed = checkpoint.step
            kept = replace(checkpoint, spans=())
            tell(self._listener, ImageCheckpoint(image=self._image, checkpoint=kept))

    @property
    def wants_previews(self) -> bool:
        """Whether anybody wants to see it, as it is now."""
        return self._listener.wants_previews

    def previewed(self, preview: Preview) -> None:
        """Tell of the image as it was predicted at a step of the denoiser."""
        tell(
            self._listener,
            ImagePreview(
                image=self._image,
                step=preview.step,
                num_steps=preview.num_steps,
                data=preview.data,
                media_type=preview.media_type,
                width=preview.width,
                height=preview.height,
            ),
        )

    def denoised(self, steps_run: int) -> None:
        """Tell that all forwards of the image are done."""
        self.stepped(steps_run, steps_run)
        self._tell(Phase.DECODE)

    def drawn(self, file: FinishedImage, prompts: tuple[PromptFacts, ...]) -> None:
        """Tell that its file is there."""
        tell(self._listener, ImageDrawn(image=self._image, file=file, prompts=prompts))
        self._tell(Phase.DONE)

    def was_drawn(self, file: FinishedImage) -> None:
        """Tell that its file was there before the request was taken up again."""
        if file.steps_run is not None:
            self._step = self._num_steps = file.steps_run
        self._tell(Phase.DONE)

    def _tell(self, phase: Phase) -> None:
        at = (_ORDER.index(phase), self._step)
        if at > self._reached:
            self._reached = at
            tell(
                self._listener,
                Progress(
                    image=self._image, phase=phase, step=self._step, num_steps=self._num_steps
                ),
            )
