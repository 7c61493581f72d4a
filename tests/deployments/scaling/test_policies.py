"""From what replicas report to replicas wanted: for one deployment, and for the pools of one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.options.autoscaling import AutoscalingOptions
from deployments.scaling.policies import Context, PoolsPolicy, WorkPolicy, read_pace

EAGER: dict[str, Any] = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0, "start_up_s": 0.0}


@dataclass(slots=True)
class Sample:
    timestamp: float
    value: float


@dataclass
class Config:
    """As Serve's: the policy of a deployment, and what it scales by without one."""

    policy: Any = field(default_factory=lambda: Rule({}))
    min_replicas: int = 1
    max_replicas: int = 1

    def get_target_ongoing_requests(self) -> float:
        return 4.0


@dataclass
class Rule:
    policy_kwargs: dict[str, Any]


@dataclass
class Deployment:
    """A context of `running` replicas, each of which reports the same."""

    deployment_name: str
    options: AutoscalingOptions | None
    running: int = 1
    target: int | None = None
    queued_s: tuple[float, float] = (0.0, 0.0)
    busy_s: tuple[float, float] = (0.0, 0.0)
    done: int = 0
    total_num_requests: float = 0.0
    total_queued_requests: float = 0.0
    current_time: float | None = 100.0
    policy_state: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[int, int] | None = None
    """Serve's, where they are no longer those of the options."""
    waits: tuple[tuple[float, float], ...] = ()
    """Target waits, and when each replica reported its own."""

    @property
    def current_num_replicas(self) -> int:
        return self.running

    @property
    def target_num_replicas(self) -> int:
        return self.running if self.target is None else self.target

    @property
    def config(self) -> Config:
        if self.options is None:
            return Config()
        bounds = self.options.min_replicas, self.options.max_replicas
        return Config(Rule(self.options.rule()), *(self.bounds or bounds))

    @property
    def raw_metrics(self) -> dict[str, dict[Any, list[Sample]]]:
        def series(values: tuple[float, float]) -> dict[Any, list[Sample]]:
            samples = [Sample(90.0, values[0]), Sample(100.0, values[1])]
            return {f"r{number}": samples for number in range(self.running)}

        return {
            "queued_s": series(self.queued_s),
            "busy_s": series(self.busy_s),
            "done": series((0.0, float(self.done))),
            "target_wait_s": {
                f"r{number}": [Sample(at, wait)] for number, (at, wait) in enumerate(self.waits)
            },
        }


def stage(name: str, **values: Any) -> Deployment:
    scaling = {name: values.pop(name) for name in list(values) if name.endswith("_replicas")}
    return Deployment(name, AutoscalingOptions(**EAGER, **scaling), **values)


def wanted(*stages: Deployment) -> dict[str, int]:
    replicas, states = PoolsPolicy()({each.deployment_name: each for each in stages})
    assert set(states) == {each.deployment_name for each in stages if each.options}
    return replicas


def test_serves_own_context_has_all_that_is_read() -> None:
    for name in (*Context.__annotations__, "raw_metrics", "total_num_requests"):
        assert name in AutoscalingContext.__init__.__annotations__
    assert AutoscalingConfig(target_ongoing_requests=3).get_target_ongoing_requests() == 3
    config = AutoscalingConfig(**AutoscalingOptions(max_replicas=3).serve_config())
    assert config.policy.policy_kwargs["max_replicas"] == 3
    assert (config.min_replicas, config.max_replicas) == (1, 3)


def test_what_comes_is_the_growth_of_the_queue_and_of_what_was_done() -> None:
    load, item_s = read_pace(
        stage("VaeDecoder", running=2, queued_s=(1.0, 4.0), busy_s=(50.0, 57.0), done=19)
    )
    assert load.offered == pytest.approx(2 * (3 + 7) / 10)
    assert load.queued_s == 8.0
    assert item_s == 3.0
    assert load.is_used


def test_works_that_went_elsewhere_are_no_load() -> None:
    load, _ = read_pace(stage("Denoiser", queued_s=(80.0, 0.0), busy_s=(50.0, 52.0), done=1))
    assert load.offered == 0.0
    assert not load.is_used


def test_works_that_move_between_replicas_do_not_come_twice() -> None:
    class Moving(Deployment):
        """Fifty seconds of work went from one replica to the other."""

        @property
        def raw_metrics(self) -> dict[str, dict[Any, list[Sample]]]:
            queued = {
                "giver": [Sample(90.0, 90.0), Sample(100.0, 40.0)],
                "taker": [Sample(90.0, 0.0), Sample(100.0, 50.0)],
            }
            busy = {each: [Sample(90.0, 0.0), Sample(100.0, 1.0)] for each in queued}
            return {"queued_s": queued, "busy_s": busy}

    moving = Moving("Denoiser", AutoscalingOptions(**EAGER), running=2)
    assert read_pace(moving).load.offered == pytest.approx(2 * 1.0 / 10)


def test_a_pool_that_sleeps_remembers_what_an_item_took() -> None:
    bounds = {"min_replicas": 0, "max_replicas": 8}
    policy = WorkPolicy(**AutoscalingOptions(**EAGER, **bounds).rule())
    _, state = policy(stage("Denoiser", busy_s=(0.0, 30.0), done=10, **bounds))
    requests: dict[str, Any] = {"total_num_requests": 10, "total_queued_requests": 10}
    asleep = stage("Denoiser", running=0, **requests, **bounds)
    assert policy(asleep)[0] == 1
    asleep.policy_state = json.loads(json.dumps({"item_s": state["item_s"]}))
    assert policy(asleep)[0] == 6


def test_requests_that_no_replica_took_count_as_the_mean_of_those_before() -> None:
    load, _ = read_pace(
        stage("Denoiser", busy_s=(0.0, 30.0), done=10, total_queued_requests=4, target=3)
    )
    assert load.queued_s == 12.0


def test_a_stage_without_a_report_is_used_when_somebody_waits() -> None:
    silent = stage("Denoiser", running=0, target=0)
    assert not read_pace(silent).load.is_used
    silent.total_num_requests = 1.0
    assert read_pace(silent).load.is_used


def test_a_deployment_is_scaled_by_its_rule_and_keeps_its_state() -> None:
    options = AutoscalingOptions(max_replicas=8, **EAGER)
    policy = WorkPolicy(**json.loads(json.dumps(options.rule())))
    busy = Deployment("Denoiser", options, queued_s=(0.0, 20.0), busy_s=(0.0, 4.0), done=1)
    replicas, state = policy(busy)
    assert replicas == 7  # 2.4 a second, and 20 s within 5
    busy.policy_state, busy.target = state, replicas
    busy.queued_s, busy.busy_s = (0.0, 0.0), (4.0, 8.0)
    assert policy(busy)[0] == 1


def test_bounds_and_the_target_wait_are_those_of_the_moment() -> None:
    options = AutoscalingOptions(max_replicas=8, target_wait_s=1000, **EAGER)
    busy = Deployment("Denoiser", options, queued_s=(0.0, 20.0), done=1)  # 2 a second
    policy = WorkPolicy(**options.rule())

    def both() -> tuple[int, int]:
        return policy(busy)[0], wanted(busy)["Denoiser"]

    assert both() == (3, 3)
    busy.waits = ((90.0, 1000.0), (99.0, 5.0))  # one replica was told a second before the other
    assert both() == (6, 6)
    busy.bounds = (1, 4)
    assert both() == (4, 4)
    busy.bounds = (9, 12)
    assert both() == (9, 9)


def test_the_controller_can_have_both_policies() -> None:
    options = AutoscalingOptions(max_replicas=8, **EAGER)
    for policy in (WorkPolicy, PoolsPolicy):
        assert cloudpickle.loads(cloudpickle.dumps(policy)) is not None
    config = AutoscalingConfig(**options.serve_config())
    assert config.policy.policy_function == "deployments.scaling.policies:WorkPolicy"


def test_decoders_grow_with_the_denoisers_that_will_feed_them() -> None:
    denoiser = stage(
        "Denoiser", max_replicas=8, queued_s=(0.0, 20.0), busy_s=(0.0, 4.0), done=2
    )  # 2 s an image, grows to 7
    decoder = stage("VaeDecoder", max_replicas=8, busy_s=(0.0, 2.0), done=2)  # 1 s an image
    assert wanted(decoder)["VaeDecoder"] == 1
    both = wanted(decoder, denoiser)
    # 2.4 s a second come, so 1.2 images, so 1.2 s of decoding, at 60 to 80 % of two replicas.
    assert both == {"Denoiser": 7, "VaeDecoder": 2}


def test_a_denoiser_bound_by_decode_grows_decode_and_not_itself() -> None:
    denoiser = stage("Denoiser", max_replicas=16, running=2, queued_s=(0.0, 40.0), done=4)
    denoiser.busy_s = (0.0, 4.0)  # 1 s an image
    decoder = stage("VaeDecoder", max_replicas=4, running=2, queued_s=(0.0, 30.0), done=4)
    decoder.busy_s = (0.0, 4.0)  # 1 s an image
    free = wanted(denoiser, decoder)
    assert free["VaeDecoder"] == 4
    assert free["Denoiser"] == 16
    decoder.running = 4  # all there can be, and behind
    assert wanted(denoiser, decoder)["Denoiser"] == 5  # 4 images a second at 80 %
    denoiser.running = 8  # as there were before decode fell behind
    assert wanted(denoiser, decoder)["Denoiser"] == 8
    denoiser.running = 20  # more than the options say
    assert wanted(denoiser, decoder)["Denoiser"] == 16


def test_replicas_stay_that_work_the_queue_off_however_long_others_take_to_start() -> None:
    slow = AutoscalingOptions(max_replicas=8, **{**EAGER, "start_up_s": 120.0})
    queued = Deployment("Denoiser", slow, running=4, queued_s=(50.0, 50.0), busy_s=(10.0, 10.0))
    assert wanted(queued)["Denoiser"] == 4
    queued.queued_s = (5.0, 5.0)  # 20 s, within 5
    assert wanted(queued)["Denoiser"] == 4
    queued.done = 1  # in 10 s, so they are worked off within 10
    assert wanted(queued)["Denoiser"] == 2


def test_the_ingress_goes_on_by_requests() -> None:
    ingress = Deployment("Ingress", None, total_num_requests=9.0)
    assert wanted(ingress, stage("Denoiser"))["Ingress"] == 3
