"""What is refused where Ray runs, instead of being waited for."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pipelines.errors import ConfigurationError
from serve.capacity import check_cluster as preflight
from serve.capacity.check_cluster import check_machines, what_is_missing
from serve.capacity.machines import machines_of
from serve.capacity.placement import placements
from serve.settings.settings import Settings


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "NodeManagerAddress": "here", "Resources": resources, "Labels": {}}


def missing(args: dict[str, Any], *nodes: dict[str, Any]) -> list[str]:
    return what_is_missing(placements(Settings.load(args)), machines_of(nodes))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray with one node of two CPUs."""
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.nodes", lambda: [node(CPU=2)])


def started_by(monkeypatch: pytest.MonkeyPatch, note: bytes | None) -> None:
    monkeypatch.setattr(preflight, "_internal_kv_get", lambda key, namespace: note)


ON_A_GPU = {"stages.denoiser.num_gpus": 1}


def test_the_defaults_fit_two_cores():
    assert missing({}, node(CPU=2)) == []


def test_a_gpu_where_there_is_none():
    (line,) = missing(ON_A_GPU, node(CPU=2))
    assert line.startswith("Denoiser: wants a GPU, and no node")
    assert "set stages.denoiser.num_gpus: 0" in line
    assert missing(ON_A_GPU, node(CPU=2), node(CPU=2, GPU=1)) == []


def test_more_cpus_in_all_than_there_are():
    lines = missing({"stages.denoiser.num_cpus": 2}, node(CPU=2))
    assert lines
    assert all("which want 2.9 CPUs and 0 GPUs with it where there are 2 and 0" in x for x in lines)
    assert missing({"stages.denoiser.num_cpus": 2}, node(CPU=2), node(CPU=2)) == []


def test_what_sleeps_needs_no_place_yet():
    asleep = {"stages.denoiser.autoscaling.min_replicas": 0, **ON_A_GPU}
    assert missing(asleep, node(CPU=2)) == []


def test_memory_is_no_reason_not_to_try():
    args = {"model": "flux.1-dev", **ON_A_GPU}
    assert missing(args, node(**{"CPU": 2, "GPU": 1, "accelerator_type:T4": 1})) == []


@pytest.mark.usefixtures("cluster")
class TestCheckMachines:
    def test_a_ray_that_was_started_for_this_is_refused(self, monkeypatch: pytest.MonkeyPatch):
        started_by(monkeypatch, b'{"ray_init_cluster": true}')
        check_machines(Settings.load())
        with pytest.raises(ConfigurationError, match="wants a GPU"):
            check_machines(Settings.load(ON_A_GPU))

    @pytest.mark.parametrize("note", [b'{"ray_init_cluster": false}', None])
    def test_any_other_may_grow(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, note: bytes | None
    ):
        started_by(monkeypatch, note)
        with caplog.at_level(logging.WARNING, logger="ray.serve"):
            monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
            check_machines(Settings.load(ON_A_GPU))
        assert "waiting for a node to join: Denoiser: wants a GPU" in caplog.text


def test_without_ray_nobody_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    check_machines(Settings.load(ON_A_GPU))
