"""Whether replicas fit the machines of a cluster, and on which they land. Pure.

Largest first, on the first node that has room: as Serve packs, by GPUs and then by CPUs. One
replica's own demands are `suitability.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from serve.capacity.machines import Machines, NodeType
from serve.capacity.placement import Placement
from serve.capacity.suitability import is_suitable, why_nowhere

_PLENTY = 10_000
"""Nodes that are more than anybody has."""

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Packing:
    """Where everything went: `nodes` by type, those without work as well; the types on which each
    deployment has its replicas; and how many of these have no place."""

    nodes: Counter[str]
    homes: dict[str, Counter[str]]
    left: Counter[str]


def pack(rows: Sequence[Placement], machines: Machines, *, at_most: bool) -> Packing:
    """Place the smallest number of replicas of each deployment, or the largest with `at_most`."""
    nodes = [_Node(kind) for kind in machines.types for _ in range(kind.min_nodes)]
    # Machines with fewer GPUs first: what needs none should not open one that has some.
    kinds = sorted(machines.types, key=lambda kind: (kind.num_gpus, kind.num_cpus))
    homes: dict[str, Counter[str]] = {row.deployment: Counter() for row in rows}
    left: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: (-row.num_gpus, -row.num_cpus)):
        suiting = [kind for kind in kinds if is_suitable(row, kind)]
        for _ in range(row.max_replicas if at_most else row.min_replicas):
            node = next((each for each in nodes if each.type in suiting and each.take(row)), None)
            if node is None and (kind := _next_to_open(suiting, nodes, machines)):
                nodes.append(node := _Node(kind))
                node.take(row)
            if node is None:
                left[row.deployment] += 1
            else:
                homes[row.deployment][node.type.name] += 1
    return Packing(Counter(node.type.name for node in nodes), homes, left)


def faults(rows: Sequence[Placement], machines: Machines) -> list[str]:
    """Why `rows` do not fit at their largest, each with what would; empty if they do.

    First what no machine can hold, else what there are too few machines for.
    """
    alone = [line for row in rows if (line := why_nowhere(row, machines.types))]
    if alone:
        return alone
    left = pack(rows, machines, at_most=True).left
    if not left:
        return []
    remedy = _remedy(rows, machines)
    crowded = pack(rows, machines, at_most=False).left
    return [
        f"{row.deployment}: {left[row.deployment]} of {row.max_replicas} replicas have no place"
        f" ({_smallest(row, crowded)}); {remedy}, or {_fewer(row, left[row.deployment])}"
        for row in rows
        if left[row.deployment]
    ]


def _remedy(rows: Sequence[Placement], machines: Machines) -> str:
    """Which machines there should be more of."""
    types = tuple(replace(kind, max_nodes=_PLENTY) for kind in machines.types)
    needed = pack(rows, Machines(types=types), at_most=True).nodes
    more = [kind for kind in machines.types if needed[kind.name] > kind.max_nodes]
    if machines.is_running:
        return f"add {sum(needed[kind.name] - kind.max_nodes for kind in more)} such nodes"
    bounds = [f"max_workers of {kind.name} to {needed[kind.name]}" for kind in more]
    if machines.max_workers is not None and needed.total() - 1 > machines.max_workers:
        bounds.append(f"max_workers of the cluster to {needed.total() - 1}")
    return f"raise {' and '.join(bounds)}"


def _smallest(row: Placement, crowded: Counter[str]) -> str:
    if row.min_replicas == row.max_replicas:
        return "the number is fixed"
    missing = crowded[row.deployment]
    return f"of the smallest number, {missing} have none" if missing else "the smallest number fits"


def _fewer(row: Placement, missing: int) -> str:
    fixed = row.min_replicas == row.max_replicas
    name = "num_replicas" if fixed else "autoscaling.max_replicas"
    return f"lower {row.setting}.{name} to {row.max_replicas - missing}"


@dataclass(slots=True)
class _Node:
    """A machine and what is left of it; a fraction of a GPU is one GPU's."""

    type: NodeType
    cpus: float = field(init=False)
    gpus: list[float] = field(init=False)
    resources: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.cpus = self.type.num_cpus
        self.gpus = [1.0] * self.type.num_gpus
        self.resources = dict(self.type.resources)

    def take(self, row: Placement) -> bool:
        """Give a replica its place; False, with nothing changed, where there is none."""
        cpus, shares, resources = self.cpus, list(self.gpus), dict(self.resources)
        for bundle in sorted(row.bundles, key=lambda bundle: -bundle.num_gpus):
            cpus -= bundle.num_cpus
            for name, amount in bundle.resources.items():
                resources[name] = resources.get(name, 0.0) - amount
            if not _take_gpus(shares, bundle.num_gpus):
                return False
        if min(cpus, *resources.values(), 0.0) < -_ROUNDING:
            return False
        self.cpus, self.gpus, self.resources = cpus, shares, resources
        return True


def _take_gpus(shares: list[float], amount: float) -> bool:
    """Whole GPUs that nobody uses, or the fullest one that still has the fraction free."""
    for part in [1.0] * int(amount) if amount >= 1 else [amount] * (amount > 0):
        free = [share for share in shares if share >= part - _ROUNDING]
        if not free:
            return False
        shares[shares.index(min(free))] -= part
    return True


def _next_to_open(
    suiting: Sequence[NodeType], nodes: Sequence[_Node], machines: Machines
) -> NodeType | None:
    """The first kind of which there may be one more."""
    if machines.max_workers is not None and len(nodes) > machines.max_workers:
        return None
    count = Counter(node.type.name for node in nodes)
    return next((kind for kind in suiting if count[kind.name] < kind.max_nodes), None)
