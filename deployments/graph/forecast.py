"""When a request would be answered, as far as this process knows, without asking any replica.

    max(start of encoder and denoiser + queue + denoising, start of the others) + the rest

Starts are those of stages that sleep. The queue is as reported within the last second, the cost of
denoising as the denoisers measured it, and their last report counts while they sleep. The rest is
what recent images took beside their denoising: encoding, decoding, and the ways between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from deployments.graph.decode_latency import DecodeLatency
from deployments.graph.waking import ColdPools
from deployments.routing.backlog import Backlogs, Queue, spread_s
from pipelines.contracts import GenerationJob, GenerationParams
from pipelines.engine.scheduling.group import MARGIN
from pipelines.errors import DeadlineUnreachable
from pipelines.job_shape import JobShape, shape_of
from pipelines.tracing.spans import Timings

COLD_START = "cold_start"
"""The phase of `Timings` in which a request waited for stages that slept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A request that came now, in seconds from now.

    `asleep` are the names of the stages that sleep, `cold_start_s` is how much later it is answered
    because of them. `queued_s` is how long it waits behind others, `eta_s` when it is answered, and
    `earliest_s` about the shortest deadline that could be promised: all None as long as no denoiser
    has reported, and never a guess. `work_s` is by how much later others are answered for it, and
    `device_s` what it takes of denoisers, its time in shared ticks by their shares; None likewise.
    """

    asleep: tuple[str, ...]
    cold_start_s: float
    queued_s: float | None = None
    eta_s: float | None = None
    earliest_s: float | None = None
    work_s: float = 0.0
    device_s: float | None = None


class Needed(NamedTuple):
    """The stages that a request needs: those before its images have latents, and all; the others
    can start meanwhile."""

    before_latents: Sequence[str]
    all: Sequence[str]

    @property
    def after_latents(self) -> Sequence[str]:
        return [stage for stage in self.all if stage not in self.before_latents]


class Forecasts:
    """Forecasts for one application's graph.

    `backlogs` are those of its denoisers. `needed` tells by a request's parameters the stages that
    it needs. With `spreads`, each image is a work of its own, on any denoiser; else a request is
    one.
    """

    def __init__(
        self,
        cold_pools: ColdPools,
        backlogs: Backlogs,
        *,
        needed: Callable[[GenerationParams], Needed],
        spreads: bool,
    ) -> None:
        self._cold_pools = cold_pools
        self._needed = needed
        self._backlogs = backlogs
        self._spreads = spreads
        self._rest = DecodeLatency()

    def observe(self, params: GenerationParams, timings: Timings) -> None:
        """A request for such images took so long, by phase."""
        apart = sum(timings.get(phase, 0.0) for phase in ("denoise_wait", "denoise", COLD_START))
        rest_s = max(0.0, timings["total"] - apart)
        self._rest.observe(params.height * params.width, rest_s, now=time.perf_counter())

    def forecast(self, params: GenerationParams) -> Forecast:
        """What is known of a request with these parameters."""
        now = time.perf_counter()
        starts = self._starts(params, now)
        asleep = tuple(map(str, self._cold_pools.cold(now, self._needed(params).all)))
        denoising = self._denoising(params)
        if denoising is None:
            return Forecast(asleep=asleep, cold_start_s=starts.all_s)
        rest_s = self._rest.lately_s(params.height * params.width)
        until_latents_s = denoising.queued_s + denoising.alone_s
        decodable_s = starts.until(until_latents_s)
        return Forecast(
            asleep=asleep,
            cold_start_s=decodable_s - until_latents_s,
            queued_s=denoising.queued_s,
            eta_s=decodable_s + rest_s,
            earliest_s=starts.until(denoising.queued_s + denoising.promised_s) + rest_s,
            work_s=denoising.device_s / denoising.replicas,
            device_s=denoising.device_s,
        )

    def refuse_late(self, job: GenerationJob) -> None:
        """Raises DeadlineUnreachable if stages sleep, and `job` must not be late and would be.

        Else its deadline is the denoiser's to judge, which knows more. What is not known counts as
        nothing: for lack of knowledge nothing is refused.
        """
        now, terms = time.perf_counter(), job.terms
        starts = self._starts(job.params, now)
        if not terms.refuses_late or terms.deadline is None or starts.all_s == 0:
            return
        denoising = self._denoising(job.params)
        denoise_s = denoising.promised_s if denoising is not None else 0.0
        rest_s = self._rest.seconds(job.params.height * job.params.width, now=now)
        earliest_s = starts.until(denoise_s) + rest_s
        left_s = terms.deadline - time.time()
        if left_s < earliest_s:
            raise DeadlineUnreachable(
                "stages sleep, and their start takes longer than the deadline allows",
                earliest_s=earliest_s,
                retry_after_s=starts.all_s if denoise_s + rest_s <= left_s else None,
            )

    def _starts(self, params: GenerationParams, now: float) -> _Starts:
        return _Starts(*(self._cold_pools.cold_start_s(now, each) for each in self._needed(params)))

    def _denoising(self, params: GenerationParams) -> _Denoising | None:
        """By the running denoisers, or one like the last of those that ran; None before any did."""
        last = self._backlogs.last
        if last is None:
            return None
        queues = self._backlogs.queues(time.time()) or [Queue(0.0, last)]
        idle = [queue._replace(queued_s=0.0) for queue in queues]
        works = params.num_images if self._spreads else 1
        shape = self._shape(params)
        alone_s = spread_s(idle, shape, works)
        fewest = shape
        if params.min_inference_steps is not None:
            fewest = self._shape(replace(params, num_inference_steps=params.min_inference_steps))
        least_s = spread_s(idle, fewest, works)
        return _Denoising(
            queued_s=spread_s(queues, shape, works) - alone_s,
            alone_s=alone_s,
            promised_s=MARGIN * least_s + least_s / fewest.forwards,
            device_s=works * queues[0].report.share_s(shape),
            replicas=len(queues),
        )

    def _shape(self, params: GenerationParams) -> JobShape:
        return shape_of(params, images=1 if self._spreads else params.num_images)


class _Starts(NamedTuple):
    """Seconds until the stages run that are needed before the latents, and until all do."""

    before_latents_s: float
    all_s: float

    def until(self, latents_s: float) -> float:
        """When an image can be decoded whose latents take so long."""
        return max(self.before_latents_s + latents_s, self.all_s)


class _Denoising(NamedTuple):
    """Seconds behind others, of one's own, that it takes of the denoisers, of which so many are
    there, and that an idle engine promises the latents in."""

    queued_s: float
    alone_s: float
    device_s: float
    replicas: int
    promised_s: float
