"""TextEncoder: prompts to conditionings, batched, and each prompt encoded once.

The pool's only memory is a cache of conditionings; losing a replica loses nothing else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from deployments.metrics import declared as metrics
from deployments.names import StageName
from deployments.options.stages import TextEncoderOptions, WeightsOptions
from deployments.single_flight import SingleFlight
from deployments.stages.provenance import OwnProvenance, stage_provenance
from deployments.stages.shim import BatchingShim
from deployments.weights.fetch import fetch
from deployments.weights.fingerprint import Fingerprint
from deployments.wire.packed import PackedConditioning
from deployments.wire.tensors import pack_conditioning
from pipelines.catalog import ModelSpec
from pipelines.contracts import ServiceTerms, TextPrompt
from pipelines.families import family_of
from pipelines.tracing.open_spans import waited_and_ran


class TextEncoder(BatchingShim[TextEncoderOptions, TextPrompt, PackedConditioning]):
    """Ray Serve deployment over `TextEncoderStage`."""

    def __init__(
        self,
        spec: ModelSpec,
        options: TextEncoderOptions,
        weights: WeightsOptions = WeightsOptions(),
    ) -> None:
        super().__init__(StageName.TEXT_ENCODER, options, phase="encode")
        with self._starting():
            import torch

            from pipelines.stages.text_encoder import TextEncoderStage

            torch.set_num_threads(options.resolved_threads)
            parts = family_of(spec).text_files
            folder = fetch(spec.source, parts, weights)
            self._stage = TextEncoderStage.load(
                str(folder),
                family=spec.family,
                device=options.resolved_device,
                dtype=options.dtype,
            )
            self._tells_provenance(
                OwnProvenance(
                    stage_provenance(
                        "text_encoder", device=options.resolved_device, dtype=options.dtype
                    ),
                    Fingerprint(folder, parts, weights),
                )
            )
        self._start_batching(self._run, key=lambda prompt: prompt.max_sequence_length)
        self._cache: OrderedDict[TextPrompt, PackedConditioning] = OrderedDict()
        self._cache_entries = options.cache_entries
        self._in_flight: SingleFlight[TextPrompt, tuple[PackedConditioning, float]] = SingleFlight()

    async def encode(self, prompt: TextPrompt) -> PackedConditioning:
        """The prompt's conditioning, from the cache if it was encoded lately.

        `timings` holds "encode_wait" and "encode" as this caller met them. Raises StageFailed.
        """
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
            metrics.PROMPTS.add(result="cached")
            spans = waited_and_ran("encode", 0.0, 0.0, cached=True, replica=self._boundary.replica)
            timings = {"encode_wait": 0.0, "encode": 0.0}
            cached = replace(self._cache[prompt], timings=timings, spans=spans[1:])
            return replace(cached, drawn_by=await self.provenance())
        with self._boundary.call():
            shares = self._in_flight.is_running(prompt)
            metrics.PROMPTS.add(result="shared" if shares else "encoded")
            began = asyncio.get_running_loop().time()
            conditioning, ran = await self._in_flight.run(prompt, lambda: self._encode(prompt))
            elapsed = asyncio.get_running_loop().time() - began
            busy = min(ran, elapsed)
            self._boundary.took(wait=elapsed - busy, run=busy)
            spans = waited_and_ran(
                "encode", elapsed - busy, busy, cached=False, replica=self._boundary.replica
            )
            timings = {"encode_wait": elapsed - busy, "encode": busy}
            return replace(
                conditioning, timings=timings, spans=spans, drawn_by=await self.provenance()
            )

    def _take_over(self, options: TextEncoderOptions) -> None:
        super()._take_over(options)
        self._cache_entries = options.cache_entries

    async def _encode(self, prompt: TextPrompt) -> tuple[PackedConditioning, float]:
        conditioning, _, ran, _ = await self._batcher.submit(
            prompt, ServiceTerms(tenant=prompt.tenant)
        )
        self._cache[prompt] = conditioning
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)
        return conditioning, ran

    def _run(self, prompts: Sequence[TextPrompt]) -> list[PackedConditioning | Exception]:
        return [pack_conditioning(item) for item in self._stage.encode(prompts)]
