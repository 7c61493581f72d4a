"""The pictures of a request that is drawn in this process: measured, prepared, looked at, pasted.

As the server's own parts do it (`serve.api.pictures`, `deployments.graph.pictures`), without a
store: each picture is a file that came with the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.contracts import PreparedPicture
from pipelines.errors import ContentPolicyViolation
from pipelines.pictures.recipe import MaskMeaning
from pipelines.tasks import PictureRole, Task
from serve.api.pictures.picture import NO_PICTURES, Picture, Pictures
from serve.api.pictures.reading import measured
from serve.api.schemas import ImageGenerationRequest
from serve.generation.plan import Plan
from serve.settings.pictures import PicturesConfig

if TYPE_CHECKING:
    import numpy as np

    from pipelines.stages.safety.safety import ImageClassifier


def pictures_in(request: ImageGenerationRequest, config: PicturesConfig) -> Pictures:
    """Image and mask of `request`, within `config`. Raises InvalidRequest for what is none."""
    if not request.has_pictures:
        return NO_PICTURES

    def read(field: str, written: str) -> Picture:
        return measured(field, request.uploads[written], config)

    meaning: MaskMeaning = "white" if request.mask is None else "transparent"
    mask = request.mask or request.mask_image
    return Pictures(
        images=tuple(read("image", each) for each in request.image or ()),
        mask=None if mask is None else read("mask", mask),
        mask_meaning=meaning,
    )


class PlannedPictures:
    """Those of `plan`, read and fitted. Raises InvalidRequest for a file that is damaged, and for a
    mask that does not fit."""

    def __init__(self, plan: Plan) -> None:
        from pipelines.pictures.prepare import Files, prepare_all

        self._plan = plan
        self._files = Files()
        as_text = plan.params.task is Task.VARIATION
        self.prepared: Sequence[PreparedPicture] = prepare_all(
            plan.recipes, self._files, as_text=as_text
        )

    @property
    def untouched(self) -> np.ndarray | None:
        """The input's pixels where its mask covers nothing and what it does not cover would be
        pasted back: then nothing is drawn."""
        mask = self._mask
        if not self._plan.finish.pastes_back or mask is None or mask.any():
            return None
        (image,) = (each for each in self.prepared if each.role is PictureRole.IMAGE)
        return image.pixels

    def check(self, classifier: ImageClassifier) -> None:
        """Let `classifier` see each picture. Raises ContentPolicyViolation with `picture`."""
        for recipe, picture in zip(self._plan.recipes, self.prepared, strict=True):
            if recipe.source is None or picture.pixels is None:
                continue
            (verdict,) = classifier.classify([picture.pixels])
            if verdict.flagged:
                name = recipe.source.name
                raise ContentPolicyViolation(
                    f"{name}: the picture was refused by the image classifier: {verdict.category}",
                    stage="picture",
                    category=verdict.category,
                    score=verdict.score,
                    threshold=verdict.threshold,
                    param=name,
                    picture=name,
                )

    def pasted(self, drawn: np.ndarray) -> np.ndarray:
        """`drawn` (height, width, 3), uint8, with the input's own pixels outside of its mask, if
        the plan has that."""
        from pipelines.pictures.prepare import paste_drawing

        if not self._plan.finish.pastes_back or self._mask is None:
            return drawn
        return paste_drawing(drawn, self._plan.recipes, self._files)

    @property
    def _mask(self) -> np.ndarray | None:
        masks = [each.mask for each in self.prepared if each.role is PictureRole.MASK]
        return masks[0] if masks else None
