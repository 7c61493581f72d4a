"""When a request would be answered, by reports and starts that are given."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from deployments.graph.forecast import Forecasts, Needed
from deployments.graph.waking import ColdPools
from deployments.names import StageName
from deployments.routing.backlog import STALE_S, Backlogs, Queue, Report, spread_s
from pipelines.contracts import FinishSpec, GenerationJob, GenerationParams, ServiceTerms
from pipelines.engine.costs.surface import CostSurface
from pipelines.engine.scheduling.group import MARGIN
from pipelines.errors import DeadlineUnreachable
from pipelines.job_shape import JobShape, shape_of
from pipelines.skipping import num_forwards
from pipelines.tracing.spans import Timings

STEPS = 10
SURFACE = CostSurface(base=0.05, per_token=5e-4)
STEP_S = 0.05 + 5e-4 * (64 + 36)
ALONE_S = STEPS * STEP_S
PARAMS = GenerationParams(
    prompt="a cat",
    height=128,
    width=128,
    num_inference_steps=STEPS,
    guidance_scale=3.5,
    seed=1,
    max_sequence_length=36,
)
NEEDED = Needed(
    before_latents=(StageName.TEXT_ENCODER, StageName.DENOISER),
    all=(
        StageName.TEXT_ENCODER,
        StageName.DENOISER,
        StageName.VAE_DECODER,
        StageName.SAFETY,
        StageName.FINISHER,
    ),
)
PROMISED_S = MARGIN * ALONE_S + STEP_S


class Starts(ColdPools):
    """Stages that take so many seconds yet to start."""

    def __init__(self, **seconds: float) -> None:
        super().__init__({}, {})
        self.seconds = {str(StageName[name.upper()]): value for name, value in seconds.items()}

    def cold(self, now: float, among: Any = None) -> tuple[str, ...]:
        return tuple(stage for stage in self.seconds if among is None or stage in among)

    def cold_start_s(self, now: float, among: Any = None) -> float:
        asked = self.seconds if among is None else among
        return max((self.seconds[stage] for stage in self.seconds if stage in asked), default=0.0)


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are as old as a test says, however long it takes."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


def report(queued_s: float = 0.0, *, age_s: float = 0.0, surface: CostSurface = SURFACE) -> Report:
    return Report(time.time() - age_s, queued_s, 36, surface)


def forecasts(
    *reports: Report,
    starts: Starts | None = None,
    spreads: bool = True,
    took: Timings | None = None,
) -> Forecasts:
    backlogs = Backlogs()
    backlogs.heard({str(index): each for index, each in enumerate(reports)}, time.time())
    made = Forecasts(starts or Starts(), backlogs, needed=lambda _: NEEDED, spreads=spreads)
    if took is not None:
        made.observe(PARAMS, took)
    return made


def near(seconds: float) -> Any:
    """What has passed since the report counts off."""
    return pytest.approx(seconds, abs=0.5)


def test_before_a_report_nothing_is_guessed_but_the_start_is_known() -> None:
    forecast = forecasts(starts=Starts(denoiser=7.0)).forecast(PARAMS)
    assert (forecast.asleep, forecast.cold_start_s) == (("Denoiser",), 7.0)
    assert (forecast.queued_s, forecast.eta_s, forecast.earliest_s) == (None, None, None)


def test_an_idle_denoiser() -> None:
    forecast = forecasts(report()).forecast(PARAMS)
    assert (forecast.asleep, forecast.cold_start_s, forecast.queued_s) == ((), 0.0, 0.0)
    assert forecast.eta_s == pytest.approx(ALONE_S)
    assert forecast.earliest_s == pytest.approx(PROMISED_S)


def test_others_go_first_on_the_replica_that_is_done_first() -> None:
    forecast = forecasts(report(90.0), report(40.0)).forecast(PARAMS)
    assert forecast.queued_s == near(40.0)
    assert forecast.eta_s == near(40.0 + ALONE_S)
    assert forecast.earliest_s == near(40.0 + PROMISED_S)


def test_the_rest_is_what_the_last_images_took_beside_denoising_and_starting() -> None:
    took = {"denoise_wait": 5.0, "denoise": 3.0, "cold_start": 20.0, "total": 30.0}
    made = forecasts(report(), took=took)
    assert made.forecast(PARAMS).eta_s == pytest.approx(ALONE_S + 2.0)
    small = replace(PARAMS, height=64)  # a size that was never drawn
    assert made.forecast(small).eta_s == pytest.approx(STEPS * (0.05 + 5e-4 * 68) + 2.0)


def test_a_denoiser_that_sleeps_starts_first_and_is_taken_to_be_as_the_last_was() -> None:
    starts = Starts(denoiser=7.0, vae_decoder=9.0)
    forecast = forecasts(report(50.0, age_s=STALE_S + 60), starts=starts).forecast(PARAMS)
    assert forecast.asleep == ("Denoiser", "VaeDecoder")
    assert forecast.queued_s == 0.0
    assert forecast.cold_start_s == pytest.approx(9.0 - ALONE_S)  # the decoder's is the later one
    assert forecast.eta_s == pytest.approx(9.0)


def test_a_stage_behind_the_denoiser_starts_meanwhile() -> None:
    slow = report(surface=SURFACE.times(10))
    forecast = forecasts(slow, starts=Starts(finisher=4.0)).forecast(PARAMS)
    assert forecast.cold_start_s == 0.0
    assert forecast.eta_s == pytest.approx(10 * ALONE_S)


def test_images_spread_over_replicas_or_are_one_work_where_stages_are_fused() -> None:
    two = replace(PARAMS, num_images=2)
    spread = forecasts(report(), report()).forecast(two).eta_s
    assert spread == pytest.approx(ALONE_S)
    one = forecasts(report()).forecast(two).eta_s
    fused = forecasts(report(), report(), spreads=False).forecast(two).eta_s
    assert one is not None
    assert one > ALONE_S
    assert fused == pytest.approx(STEPS * (0.05 + 5e-4 * 200))


def test_works_that_share_a_replica_queue_behind_each_other() -> None:
    shape = JobShape(64, 1, STEPS)
    share_s = report().share_s(shape)
    queues = [Queue(0.0, report()), Queue(100.0, report())]
    assert spread_s(queues, shape, 3) == pytest.approx(ALONE_S + 2 * share_s)


def test_steps_that_are_skipped_cost_nothing_and_fewer_may_be_promised() -> None:
    low = forecasts(report()).forecast(replace(PARAMS, skips_steps=True))
    assert low.eta_s == pytest.approx(num_forwards(STEPS, skips_steps=True) * STEP_S)
    fewer = forecasts(report()).forecast(replace(PARAMS, min_inference_steps=4))
    assert fewer.eta_s == pytest.approx(ALONE_S)
    assert fewer.earliest_s == pytest.approx(MARGIN * 4 * STEP_S + STEP_S)


def job(in_s: float) -> GenerationJob:
    terms = ServiceTerms(deadline=time.time() + in_s, refuses_late=True)
    return GenerationJob(request_id="r", params=PARAMS, finish=FinishSpec(seed=1), terms=terms)


def test_a_refusal_says_when_it_could_be_and_when_to_come_back() -> None:
    made = forecasts(report(), starts=Starts(denoiser=60.0))
    with pytest.raises(DeadlineUnreachable) as refused:
        made.refuse_late(job(30.0))
    assert refused.value.earliest_s == pytest.approx(60.0 + PROMISED_S)
    assert refused.value.retry_after_s == 60.0
    made.refuse_late(job(90.0))


def test_where_the_work_alone_takes_longer_no_waiting_helps() -> None:
    made = forecasts(report(surface=SURFACE.times(100)), starts=Starts(denoiser=60.0))
    with pytest.raises(DeadlineUnreachable) as refused:
        made.refuse_late(job(30.0))
    assert refused.value.retry_after_s is None


def test_what_no_start_delays_is_left_to_the_denoiser() -> None:
    forecasts(report(500.0)).refuse_late(job(0.1))
    slow = report(surface=SURFACE.times(10))
    forecasts(slow, starts=Starts(finisher=9.0)).refuse_late(job(60.0))


def test_what_it_takes_of_denoisers_is_the_same_however_many_there_are() -> None:
    assert forecasts().forecast(PARAMS).device_s is None
    one, two = forecasts(report()), forecasts(report(), report())
    cost_s = one.forecast(PARAMS).device_s
    assert cost_s is not None
    assert cost_s == pytest.approx(report().share_s(shape_of(PARAMS)))
    assert cost_s < ALONE_S
    assert two.forecast(PARAMS).device_s == cost_s
    assert two.forecast(PARAMS).work_s == pytest.approx(cost_s / 2)
    assert one.forecast(replace(PARAMS, num_images=3)).device_s == pytest.approx(3 * cost_s)
