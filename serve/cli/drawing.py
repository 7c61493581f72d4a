"""`sluice generate` and `edit` without a server: the whole chain in this process.

The only module of this package that leads to torch, and only when it draws. What it accepts and
how it fills the defaults is the server's own code.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from deployments.graph.warnings import untouched_warnings, warnings_for
from deployments.stages.provenance import stage_provenance
from deployments.storage.encode import encode_image
from deployments.storage.parameters import parameters_text
from deployments.storage.receipt import receipt_text, with_stages
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from deployments.wire.packed import PromptFacts
from pipelines.contracts import Conditioning, StepEvent
from pipelines.provenance import Provenance, StageProvenance, of_size
from pipelines.skipping import forwards_of
from serve.api.normalise import normalise
from serve.api.schemas import ImageGenerationRequest
from serve.app import load_rules
from serve.cli.local_pictures import PlannedPictures, pictures_in
from serve.generation.plan import Plan
from serve.settings.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from pipelines.local import LocalChain
    from pipelines.stages.safety.safety import ImageClassifier

_ATTENTION = "sdpa"
"""What the chain computes with, here and in a server that is told nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One finished file and the seed that drew it."""

    data: bytes
    seed: int


class _Loaded(NamedTuple):
    """The chain, and of each stage what its receipts will say, once its files have been read."""

    chain: LocalChain
    classifier: ImageClassifier
    stages: list[tuple[StageProvenance, Fingerprint]]


class LocalDrawing:
    """The settings of this machine, and the chain that they describe.

    `device` is "auto", "cpu" or "cuda"; `dtype` is "auto" (bfloat16 on CUDA, float32 elsewhere) or
    the name of one.
    """

    def __init__(self, settings: Settings, *, device: str = "auto", dtype: str = "auto") -> None:
        self._settings = settings
        self._spec = settings.model_spec()
        self._device = device
        self._dtype = dtype

    def plan(self, request: ImageGenerationRequest) -> Plan:
        """What will be drawn; raises what the server would answer with a 4xx."""
        plan = normalise(
            request,
            spec=self._spec,
            limits=self._settings.limits,
            deadlines=self._settings.deadlines,
            served_names=(self._settings.model_id, self._spec.name),
            random_seed=secrets.randbits(32),
            pictures=pictures_in(request, self._settings.pictures),
        )
        if (rules := load_rules(self._settings.prompt_rules)) is not None:
            rules.check(plan.params.plain_prompt, param="prompt")
        return plan

    def draw(
        self,
        plan: Plan,
        on_step: Callable[[StepEvent], None],
        on_warnings: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> list[Drawing]:
        """Load the model and draw; raises the errors of `pipelines.errors`.

        `on_warnings` hears what of the prompts the text encoders did not take in, and of a mask
        that covers nothing: its image comes back as it is.
        """

        def on_encoded(*texts: Conditioning | None) -> None:
            facts = [
                PromptFacts(num_tokens=text.num_tokens, unread=text.unread)
                for text in texts
                if text is not None
            ]
            on_warnings(warnings_for(plan.params, *facts))

        pictures = PlannedPictures(plan)  # first: a damaged file is told at once
        loaded = self._load(has_pictures=bool(plan.recipes))
        pictures.check(loaded.classifier)
        count = plan.params.num_images
        if (untouched := pictures.untouched) is not None:
            on_warnings(untouched_warnings([True]))
            return [_finished(untouched, (), plan, index, steps_run=0) for index in range(count)]
        images = loaded.chain.generate(
            plan.params, pictures=pictures.prepared, on_step=on_step, on_encoded=on_encoded
        )
        drawn_by = tuple(replace(stage, weights=read.wait()) for stage, read in loaded.stages)
        steps_run = forwards_of(plan.params)
        return [
            _finished(
                pictures.pasted(image.pixels),
                of_size(drawn_by, image.height, image.width),
                plan,
                index,
                steps_run=steps_run,
            )
            for index, image in enumerate(images)
        ]

    def _load(self, *, has_pictures: bool) -> _Loaded:
        import torch

        from pipelines.families import family_of

        _silence_transformers()
        from pipelines.local import LocalChain
        from pipelines.stages.safety.safety import CLASSIFIER_PARTS, load_image_classifier

        device = self._device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = self._dtype
        if dtype == "auto":
            dtype = "bfloat16" if device == "cuda" else "float32"
        safety, weights = self._settings.stages.safety, self._settings.stages.weights
        source = safety.source
        if source is not None:
            source = str(fetch(source, CLASSIFIER_PARTS, weights))
        classifier = load_image_classifier(
            safety.classifier,
            source=source,
            threshold=safety.threshold,
            flagged_labels=safety.flagged_labels,
            device=safety.resolved_device,
            dtype=safety.dtype,
            threads=safety.resolved_threads,
        )
        family = family_of(self._spec)
        files = (*family.text_files, *family.transformer_files, *family.decoder_files)
        folder = fetch(self._spec.source, files, weights)
        spec = replace(self._spec, source=str(folder))
        decoder = self._settings.stages.vae_decoder
        chain = LocalChain.load(
            spec,
            device=device,
            dtype=dtype,
            classifier=classifier,
            tile_from_pixels=decoder.tile_from_pixels,
            decoder_batch=decoder.max_batch_size,
        )
        parts = {
            "text_encoder": family.text_files,
            **({"image_encoder": family.encoder_files} if has_pictures else {}),
            "transformer": family.transformer_files,
            "vae": family.decoder_files,
        }
        stages = [
            (
                stage_provenance(
                    part,
                    device=device,
                    dtype=dtype,
                    attention=_ATTENTION if part == "transformer" else "",
                    tiling=chain.tiling if part == "vae" else None,
                ),
                Fingerprint(folder, names, weights),
            )
            for part, names in parts.items()
        ]
        return _Loaded(chain, classifier, stages)


def _finished(
    pixels: np.ndarray, drawn_by: Provenance, plan: Plan, index: int, *, steps_run: int
) -> Drawing:
    """The file of image `index`, to the byte that of a server."""
    params, recipes = plan.params, plan.recipes
    finish = replace(plan.finish, seed=params.seed + index)
    cuts = params.planned_cuts if steps_run else ()
    data = encode_image(
        pixels,
        output_format=finish.output_format,
        output_compression=finish.output_compression,
        parameters=parameters_text(params, finish, recipes, steps_run=steps_run, cuts=cuts),
        receipt=with_stages(
            receipt_text(params, finish, recipes, steps_run=steps_run, cuts=cuts), drawn_by
        ),
    )
    return Drawing(data=data, seed=finish.seed)


def _silence_transformers() -> None:
    """Its bars and hints, the first of them at import, would tear our own progress bar."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
