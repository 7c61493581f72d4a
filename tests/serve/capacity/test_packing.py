"""What fits which machines, and what is said where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ray._raylet import (
    node_labels_match_selector,  # pyright: ignore[reportAttributeAccessIssue]  # not in its stub
)

from serve.capacity.machines import Machines, NodeType
from serve.capacity.packing import faults, pack
from serve.capacity.placement import Bundle, Memory, Placement
from serve.capacity.suitability import is_suitable, matches, why_nowhere

GIB = 2**30
CPUS = NodeType(name="cpus", num_cpus=8, labels={"pool": "cpu"}, max_nodes=2)
L4 = NodeType(name="l4", num_cpus=8, num_gpus=1, accelerator="L4", labels={"pool": "small"})
H100S = NodeType(
    name="h100s",
    num_cpus=32,
    num_gpus=2,
    accelerator="H100",
    labels={"pool": "large"},
    resources={"nvlink": 1},
    max_nodes=2,
)
MACHINES = Machines(types=(H100S, L4, CPUS))


def row(name: str = "Stage", *, gpus: float = 0, cpus: float = 1, **changes: Any) -> Placement:
    low = changes.pop("least", 1)
    defaults: dict[str, Any] = {
        "deployment": name,
        "setting": f"stages.{name.lower()}",
        "min_replicas": low,
        "max_replicas": changes.pop("most", low),
        "bundles": (Bundle(num_cpus=cpus, num_gpus=gpus),),
        "device": "cuda" if gpus else "cpu",
    }
    return Placement(**defaults | changes)


def homes(*rows: Placement, machines: Machines = MACHINES) -> dict[str, dict[str, int]]:
    found = pack(rows, machines, at_most=True)
    assert not found.left
    return {name: dict(home) for name, home in found.homes.items()}


class TestPack:
    def test_what_needs_no_gpu_opens_no_machine_that_has_one(self):
        assert homes(row(most=16)) == {"Stage": {"cpus": 16}}

    def test_the_largest_is_placed_first_whatever_the_order(self):
        small, wide = row("Small", gpus=0.5, least=2), row("Wide", gpus=2)
        for rows in ((small, wide), (wide, small)):
            found = homes(*rows, machines=Machines(types=(H100S,)))
            assert found == {"Wide": {"h100s": 1}, "Small": {"h100s": 2}}

    def test_fractions_fill_one_gpu_before_the_next(self):
        """0.6 and 0.4 are one GPU; 0.6 and 0.6 are two."""
        one = Machines(types=(replace(L4, max_nodes=1),))
        assert homes(row("A", gpus=0.6), row("B", gpus=0.4), machines=one)["B"] == {"l4": 1}
        assert pack([row("A", gpus=0.6, least=2)], one, at_most=True).left == {"A": 1}

    def test_three_halves_of_a_gpu_need_two_gpus_though_they_are_free_in_sum(self):
        found = pack([row(gpus=0.7, least=3)], Machines(types=(H100S,)), at_most=True)
        assert found.nodes == {"h100s": 2}

    def test_all_bundles_of_a_replica_are_on_one_node(self):
        ranks = (Bundle(num_cpus=1, num_gpus=1),) * 2
        one_each = Machines(types=(replace(H100S, num_gpus=1, max_nodes=4),))
        wide = row(bundles=ranks)
        assert (wide.num_gpus, wide.num_cpus) == (2, 2)
        assert homes(wide) == {"Stage": {"h100s": 1}}
        assert "wants 2 GPUs on one node" in (why_nowhere(wide, one_each.types) or "")

    def test_the_smallest_number_takes_fewer_machines(self):
        scaled = row(gpus=1, least=1, most=4)
        nodes = [pack([scaled], MACHINES, at_most=most).nodes for most in (False, True)]
        assert nodes == [{"l4": 1}, {"l4": 1, "h100s": 2}]

    def test_machines_that_are_always_there_are_used_first(self):
        machines = Machines(types=(replace(H100S, min_nodes=1), CPUS))
        assert homes(row(), machines=machines) == {"Stage": {"h100s": 1}}

    def test_no_more_workers_than_the_cluster_may_have(self):
        head = NodeType(name="head", num_cpus=0, min_nodes=1)
        machines = Machines(types=(head, CPUS), max_workers=1)
        assert pack([row(least=16)], machines, at_most=True).left == {"Stage": 8}
        (line,) = faults([row(least=16)], machines)
        assert "raise max_workers of the cluster to 2, or" in line


class TestWhatOneReplicaAsksFor:
    @pytest.mark.parametrize(
        ("wanted", "said"),
        [
            (
                row("Denoiser", gpus=3),
                "wants 3 GPUs on one node, and the largest node type that it may go to (h100s) has"
                " 2: use stages.denoiser.num_gpus: 2, or machines with 3",
            ),
            (
                row("Denoiser", gpus=1, selector={"pool": "cpu"}),
                "set stages.denoiser.num_gpus: 0 (it then computes on the CPU), or add machines",
            ),
            (
                row("Denoiser", selector={"pool": "lage"}),
                "stages.denoiser.label_selector: no node type has pool=lage; there are: pool=cpu,"
                " pool=large, pool=small",
            ),
            (
                row("Denoiser", gpus=1, accelerator_type="A100"),
                "has an A100; there are: H100, L4",
            ),
            (
                row("Denoiser", cpus=9, selector={"pool": "cpu"}),
                "wants 9 CPUs on one node, and the largest node type that it may go to (cpus) has"
                " 8: use stages.denoiser.num_cpus: 8",
            ),
            (
                row(bundles=(Bundle(num_cpus=1, resources={"nvlink": 2}),)),
                "no node type that it may go to has nvlink: 2; there are: nvlink: 1",
            ),
        ],
    )
    def test_what_no_machine_has_is_said_with_what_would_work(self, wanted: Placement, said: str):
        (line,) = faults([row("Other"), wanted], MACHINES)
        assert line.startswith(f"{wanted.deployment}: ")
        assert said in line

    @pytest.mark.parametrize(
        ("gpus", "gib", "dtype", "said"),
        [
            (0.4, 10, "bfloat16", "needs 10.5 GiB of GPU memory, and 0.4 of L4 has 8.8: use"),
            (0.4, 10, "bfloat16", "use stages.stage.num_gpus: 0.5"),
            (1, 30, "float32", "use stages.stage.dtype: bfloat16"),
            (1, 30, "bfloat16", "use a larger GPU, such as L40S"),
        ],
    )
    def test_memory(self, gpus: float, gib: int, dtype: str, said: str):
        memory = Memory(weights=gib * GIB, activations=0)
        wanted = row(gpus=gpus, memory=memory, dtype=dtype)
        assert said in (why_nowhere(wanted, [L4]) or "")
        assert is_suitable(wanted, H100S)

    def test_a_gpu_of_unknown_memory_is_given_a_try(self):
        wanted = row(gpus=1, memory=Memory(weights=500 * GIB, activations=0))
        assert is_suitable(wanted, replace(L4, accelerator=None))

    @pytest.mark.parametrize(
        ("selector", "expected"),
        [
            ({}, True),
            ({"pool": "small"}, True),
            ({"pool": "in(large,small)"}, True),
            ({"pool": "in(large, small)"}, False),
            ({"pool": "!large"}, True),
            ({"pool": "!in(large,small)"}, False),
            ({"zone": "a"}, False),
            ({"zone": "!a"}, True),
            ({"pool": "small", "zone": "a"}, False),
        ],
    )
    def test_label_selectors_mean_what_they_mean_to_ray(
        self, selector: dict[str, str], expected: bool
    ):
        assert matches(L4.labels, selector) is expected
        assert node_labels_match_selector(dict(L4.labels), selector) is expected

    def test_an_a100_is_one_whatever_its_memory(self):
        large = replace(L4, accelerator="A100-80G")
        assert is_suitable(row(gpus=1, accelerator_type="A100"), large)
        assert not is_suitable(row(gpus=1, accelerator_type="A100-40G"), large)
        assert not is_suitable(row(gpus=1, accelerator_type="L4"), replace(L4, accelerator="L40S"))


class TestTooFewMachines:
    def test_the_numbers_that_would_do(self):
        scaled = row(gpus=2, least=1, most=5)
        (line,) = faults([scaled], MACHINES)
        assert line == (
            "Stage: 3 of 5 replicas have no place (the smallest number fits); raise max_workers of"
            " h100s to 5, or lower stages.stage.autoscaling.max_replicas to 2"
        )
        assert faults([replace(scaled, max_replicas=2)], MACHINES) == []
        more = Machines(types=(replace(H100S, max_nodes=5), L4, CPUS))
        assert faults([scaled], more) == []

    def test_a_fixed_number(self):
        (line,) = faults([row(gpus=2, least=3)], MACHINES)
        assert "1 of 3 replicas have no place (the number is fixed)" in line
        assert line.endswith("or lower stages.stage.num_replicas to 2")

    def test_even_the_smallest_number(self):
        (line,) = faults([row(gpus=2, least=3, most=4)], MACHINES)
        assert "2 of 4 replicas have no place (of the smallest number, 1 have none)" in line

    def test_a_running_cluster_is_not_configured_but_joined(self):
        node = NodeType(name="10.0.0.1", num_cpus=2, min_nodes=1)
        (line,) = faults([row(cpus=2, least=3)], Machines(types=(node,), is_running=True))
        assert "add 2 such nodes" in line
