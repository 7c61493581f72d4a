"""The whole chain in one process: for the command line, notebooks and as the measure of the DAG.

The same stages as in the served application, without its processes and without its engine: one
request has nobody to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.catalog import ControlNetSource, ModelSpec
from pipelines.contracts import (
    Conditioning,
    DecodedImage,
    EncodedPicture,
    GenerationParams,
    LatentJob,
    Latents,
    PreparedPicture,
    StepEvent,
    TextPrompt,
)
from pipelines.errors import ContentPolicyViolation, DegenerateImage, UnsupportedFeature
from pipelines.stages.denoiser import DenoiserStage
from pipelines.stages.image_encoder import ImageEncoderStage
from pipelines.stages.text_encoder import TextEncoderStage
from pipelines.stages.vae_decoder import VaeDecoderStage
from pipelines.tasks import Task
from pipelines.tiling import Tiling

if TYPE_CHECKING:
    from pipelines.stages.safety.safety import ImageClassifier

_MAX_TOKENS_PER_TICK = 4608
"""One 1024x1024 image with 512 text tokens: past that a bigger tick only takes longer."""


class LocalChain:
    """Text encoder, image encoder, denoiser, VAE decoder and, when given, an image classifier."""

    def __init__(
        self,
        encoder: TextEncoderStage,
        denoiser: DenoiserStage,
        decoder: VaeDecoderStage,
        classifier: ImageClassifier | None = None,
        load_image_encoder: Callable[[], ImageEncoderStage] | None = None,
    ) -> None:
        """`load_image_encoder` is called for the first request with pictures: most have none."""
        self._load_image_encoder = load_image_encoder
        self._image_encoder: ImageEncoderStage | None = None
        self._encoder = encoder
        self._denoiser = denoiser
        self._decoder = decoder
        self._classifier = classifier

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        classifier: ImageClassifier | None = None,
        controlnets: Sequence[ControlNetSource] = (),
        variations: str | None = None,
        tile_from_pixels: int | None = None,
        decoder_batch: int = 1,
    ) -> LocalChain:
        """The chain with the weights of `spec`, its ControlNets, and the folder of what makes
        `variations`. Images are decoded in tiles as where a server has these options. Raises
        CheckpointError, ConfigurationError."""
        where: dict[str, Any] = {"family": spec.family, "device": device, "dtype": dtype}
        return cls(
            TextEncoderStage.load(spec.source, **where),
            DenoiserStage.load(spec.source, **where, controlnets=controlnets),
            VaeDecoderStage.load(
                spec.source, **where, tile_from_pixels=tile_from_pixels, batch=decoder_batch
            ),
            classifier,
            lambda: ImageEncoderStage.load(spec.source, **where, variations=variations),
        )

    @property
    def tiling(self) -> Tiling | None:
        """By which rule images are decoded in tiles."""
        return self._decoder.tiling

    def generate(
        self,
        params: GenerationParams,
        *,
        pictures: Sequence[PreparedPicture] = (),
        on_step: Callable[[StepEvent], None] | None = None,
        on_encoded: Callable[[Conditioning, Conditioning | None], None] | None = None,
    ) -> list[DecodedImage]:
        """All images of a request, in order, with the `pictures` of `params.pictures` (see
        `pipelines.pictures.prepare`); `on_step` hears of every step of every image,
        `on_encoded` once of the prompt and, with true guidance, of the negative prompt.

        Raises InvalidRequest for pictures that the task has not, DegenerateImage for a result that
        is none, ContentPolicyViolation when the classifier refuses one.
        """
        positive = self._encode(params.prompt, params)
        negative = None
        if params.uses_true_cfg and params.negative_prompt is not None:
            negative = self._encode(params.negative_prompt, params)
        if on_encoded is not None:
            on_encoded(positive, negative)
        encoded = self._encode_pictures(pictures)
        latents = self._denoise(params, (positive, negative), encoded, on_step)
        return [self._decode(item, index) for index, item in enumerate(latents)]

    def _encode(self, text: str, params: GenerationParams) -> Conditioning:
        prompt = TextPrompt(
            prompt=text,
            max_sequence_length=params.max_sequence_length,
            is_blank=params.task is Task.VARIATION and not text,
            is_weighted=params.prompt_weighting,
        )
        return self._encoder.encode([prompt])[0]

    def _encode_pictures(self, pictures: Sequence[PreparedPicture]) -> list[EncodedPicture]:
        if not pictures:
            return []
        if self._image_encoder is None:
            if self._load_image_encoder is None:
                raise UnsupportedFeature("image: this chain has no image encoder", param="image")
            self._image_encoder = self._load_image_encoder()
        return self._image_encoder.encode(pictures)

    def _denoise(
        self,
        params: GenerationParams,
        texts: tuple[Conditioning, Conditioning | None],
        pictures: Sequence[EncodedPicture],
        on_step: Callable[[StepEvent], None] | None,
    ) -> list[Latents]:
        """All images step together, or in chunks of as many as fit into one tick."""
        jobs = [
            LatentJob.of(params, index, group="local", work_id=f"local-{index}")
            for index in range(params.num_images)
        ]
        chunk = max(1, _MAX_TOKENS_PER_TICK // sum(self._denoiser.segments(jobs[0], *texts)))
        latents: list[Latents] = []
        for start in range(0, len(jobs), chunk):
            together = [
                self._denoiser.admit(job, *texts, None, pictures)
                for job in jobs[start : start + chunk]
            ]
            for step in range(1, together[0].num_steps + 1):
                self._denoiser.tick(together)
                if on_step is not None:
                    for item in together:
                        work_id, num_steps = item.job.work_id, item.num_steps
                        on_step(StepEvent(work_id=work_id, step=step, num_steps=num_steps))
            latents += [self._denoiser.finish(item) for item in together]
        return latents

    def _decode(self, latents: Latents, index: int) -> DecodedImage:
        (image,) = self._decoder.decode([latents])
        if isinstance(image, DegenerateImage):
            raise image
        if self._classifier is not None:
            (verdict,) = self._classifier.classify([image.pixels])
            if verdict.flagged:
                raise ContentPolicyViolation(
                    f"image {index} was refused by the image classifier",
                    stage="image",
                    category=verdict.category,
                    score=verdict.score,
                    threshold=verdict.threshold,
                    image_index=index,
                )
        return image
