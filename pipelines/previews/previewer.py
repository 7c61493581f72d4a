"""Previewer: predicted latents become small pictures, beside the engine, in a thread of its own.

It never makes anybody wait: what comes while it works is not taken, and never queued.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from pipelines.previews.preview import Preview

logger = logging.getLogger(__name__)

LONGEST = 512
"""Pixels of a preview's longer side, at most."""

MEDIA_TYPE = "image/jpeg"
_QUALITY = 80


class PreviewDecoder(Protocol):
    """Latents to colours, quickly."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(3, H, W) around -1..1 of latents (C, h, w), in any resolution."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """The clean latents (S, D) that a step predicts for an image of `height` x `width` pixels, and
    who is told of it: from the previewer's thread, so it must not block."""

    work_id: str
    step: int
    num_steps: int
    latents: torch.Tensor
    height: int
    width: int
    on_preview: Callable[[Preview], None]


class Previewer:
    """Of one engine, whose thread alone offers. `unpacked` makes (C, h, w) of (S, D)."""

    def __init__(
        self,
        decoder: PreviewDecoder,
        unpacked: Callable[[torch.Tensor, int, int], torch.Tensor],
        *,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._unpacked = unpacked
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sluice-previews")
        self._is_idle = True

    @property
    def is_idle(self) -> bool:
        """Whether it would take something now."""
        return self._is_idle

    def offer(self, items: Sequence[Predicted]) -> None:
        """Show these, unless it is busy. Their tensors are complete, and nobody else's."""
        if items and self._is_idle:
            self._is_idle = False
            self._threads.submit(self._show, items)

    def close(self) -> None:
        """Wait for what is being shown, and end."""
        self._threads.shutdown()

    def _show(self, items: Sequence[Predicted]) -> None:
        try:
            on_device = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
            with torch.inference_mode(), on_device:
                for item in items:
                    if (preview := self._preview(item)) is not None:
                        item.on_preview(preview)
        except Exception:  # the thread's edge: no image fails for its preview
            logger.exception("a preview could not be made")
        finally:
            self._is_idle = True

    def _preview(self, item: Predicted) -> Preview | None:
        """None for latents that are not finite: the image will say so itself."""
        colours = self._decoder.decode(self._unpacked(item.latents, item.height, item.width))
        if not bool(colours.isfinite().all()):
            return None
        levels = (colours.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        pixels = levels.permute(1, 2, 0).cpu().numpy()
        shrink = min(1.0, LONGEST / max(item.height, item.width))
        width, height = round(item.width * shrink), round(item.height * shrink)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=_QUALITY)
        return Preview(
            work_id=item.work_id,
            step=item.step,
            num_steps=item.num_steps,
            data=file.getvalue(),
            media_type=MEDIA_TYPE,
            width=width,
            height=height,
        )
