"""How an image is encoded and kept, and what is then known of it.

Parts of `pipelines.contracts`, which names them too.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.tracing.spans import Timed


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishSpec:
    """How the finisher encodes and keeps one image.

    `output_format` is "png", "jpeg" or "webp"; `output_compression` 0..100 is the quality of the
    lossy formats (PNG is lossless and ignores it). `inline` asks for the bytes, `store` for a file
    id. `model` is the name to be written into the file; `parameters` is all the text of its
    metadata, and `receipt` its receipt (`deployments.storage.receipt`), but for the stages, both
    known once the image is drawn; "" is none. With `pastes_back` the pixels outside the mask are
    the input's own (`GenerationJob.recipes`). `owner` is the tenant whose file it is, who may have
    it drawn from; "" is nobody.
    """

    output_format: str = "png"
    output_compression: int = 95
    inline: bool = True
    store: bool = False
    seed: int
    model: str = ""
    parameters: str = ""
    receipt: str = ""
    pastes_back: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedImage(Timed):
    """An encoded image: base64 text and/or the id of a stored file, as `FinishSpec` asked.

    `not_stored` says why a file that should have been stored could not be: then there is the text,
    whatever was asked for. `steps_run` and `device_seconds` are its latents'.
    """

    b64: str | None
    file_id: str | None
    output_format: str
    width: int
    height: int
    seed: int
    sha256: str
    num_bytes: int
    not_stored: str = ""
    steps_run: int | None = None
    device_seconds: float = 0.0

    @property
    def megapixel_steps(self) -> float:
        """Its forwards times its area, in 1e6 pixels."""
        return (self.steps_run or 0) * self.width * self.height / 1e6
