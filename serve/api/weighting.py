"""Whether words of a request's prompts have weights, and whether those are sound. Pure."""

from __future__ import annotations

from pipelines.catalog import ModelSpec
from pipelines.errors import InvalidRequest, UnsupportedFeature
from pipelines.families import family_of
from pipelines.prompts.markup import markup_warnings
from pipelines.prompts.weighting import parse_weights
from serve.api.schemas import ImageGenerationRequest


def weighs_words(request: ImageGenerationRequest, spec: ModelSpec) -> bool:
    """As the request says, else as the model has it. Raises UnsupportedFeature, naming
    `prompt_weighting`, where its family has no weights."""
    wanted = request.prompt_weighting
    if wanted is None:
        wanted = spec.prompt_weighting
    if wanted and not family_of(spec).weighs_words:
        raise UnsupportedFeature(
            f"prompt_weighting: words of a prompt have no weights with {spec.name}; leave it out",
            param="prompt_weighting",
        )
    return wanted


def check_words(
    text: str, param: str, *, is_weighted: bool, may_be_blank: bool, warnings: list[str]
) -> None:
    """Warn of what in a prompt has no effect. Raises InvalidRequest, naming `param`, for weights
    that are none, and where nothing but those was written."""
    warnings += markup_warnings(param, text, is_weighted=is_weighted)
    if is_weighted and not parse_weights(text, param=param).text.strip() and not may_be_blank:
        raise InvalidRequest(
            f"{param}: describe the image in words; there are none in the parentheses", param=param
        )
