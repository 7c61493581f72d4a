"""TextEncoder: prompts to conditionings, batched, and each prompt encoded once.

The pool's only memory is a cache of conditionings; losing a replica loses nothing else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deployments.lifecycle.boundary import Boundary, KeepAlive, starting
from deployments.metrics import declared as metrics
from deployments.options.autoscaling import reported_targets
from deployments.options.reconfigure import taken_over
from deployments.options.stages import TextEncoderOptions, WeightsOptions
from deployments.single_flight import SingleFlight
from deployments.weights.fetch import fetch
from deployments.wire.packed import PackedConditioning
from deployments.wire.tensors import pack_conditioning
from pipelines.batching.batcher import Batcher
from pipelines.contracts import ServiceTerms, TextPrompt
from pipelines.tracing.open_spans import waited_and_ran


class TextEncoder(KeepAlive):
    """Ray Serve deployment over `TextEncoderStage`."""

    def __init__(
        self,
        source: str,
        options: TextEncoderOptions,
        weights: WeightsOptions = WeightsOptions(),
    ) -> None:
        with starting("TextEncoder", options):
            import torch

            from pipelines.flux1.checkpoint import TEXT_PARTS
            from pipelines.stages.text_encoder import TextEncoderStage

            torch.set_num_threads(options.resolved_threads)
            self._stage = TextEncoderStage.load(
                str(fetch(source, TEXT_PARTS, weights)),
                device=options.resolved_device,
                dtype=options.dtype,
            )
        self._options = options
        self._autoscaling = options.autoscaling
        self._boundary = Boundary("TextEncoder")
        self._batcher: Batcher[TextPrompt, PackedConditioning] = Batcher(
            self._run,
            key=lambda prompt: prompt.max_sequence_length,
            max_batch_size=options.max_batch_size,
            name="text-encoder",
        )
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
            return replace(self._cache[prompt], timings=timings, spans=spans[1:])
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
            return replace(conditioning, timings=timings, spans=spans)

    def reconfigure(self, user_config: dict[str, Any] | None, rank: Any = None) -> None:
        """Take over what Serve's `user_config` says; see `deployments.options.reconfigure`."""
        if (options := taken_over(self._options, user_config)) is not None:
            self._autoscaling = options.autoscaling
            self._batcher.max_batch_size = options.max_batch_size
            self._cache_entries = options.cache_entries

    async def ready(self) -> bool:
        """True: the constructor returns only once the weights are loaded."""
        return True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's controller is told for scaling: a `Demand`, and the target wait."""
        return {**self._batcher.demand._asdict(), **reported_targets(self._autoscaling)}

    def check_health(self) -> None:
        """Raises StageFailed when encoding has stopped working."""
        self._boundary.has_to_do(self._batcher.demand)
        self._boundary.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_batcher"):
            self._batcher.close()

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
