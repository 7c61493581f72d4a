"""A rank's place among the others, and the collectives of a forward, counted.

The ranks of a replica form a grid of `ulysses` rows and `tensor` columns: rank = row * tensor +
column. NCCL on GPUs, gloo on CPUs. Collectives are torch's; errors are passed on as torch raises
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from pipelines.packing.linear import Total
from pipelines.parallel.degrees import Degrees, shares


class RankMesh:
    """One rank of a process group that is laid out by `degrees`.

    `received` counts the bytes that came to this rank from others, by kind of collective: what is
    sent is the same over all ranks. An all-reduce is counted as the ring that it is on gloo and,
    for messages of this size, on NCCL.
    """

    def __init__(self, degrees: Degrees, device: torch.device) -> None:
        self.degrees = degrees
        self.device = device
        self.received: Counter[str] = Counter()
        self._grid = DeviceMesh(
            device.type,
            torch.arange(degrees.ranks).view(degrees.ulysses, degrees.tensor),
            mesh_dim_names=("ulysses", "tensor"),
        )
        self.rank = self._grid.get_rank()
        self.row, self.column = divmod(self.rank, degrees.tensor)
        self._column_group = self._grid.get_group("ulysses")
        self._row_group = self._grid.get_group("tensor")

    def total(self, x: torch.Tensor) -> torch.Tensor:
        """`x` added up, in place, over the ranks that share its rows' weights."""
        dist.all_reduce(x, group=self._row_group)
        others, degree = self.degrees.tensor - 1, self.degrees.tensor
        self.received["all_reduce"] += 2 * others * x.nbytes // degree
        return x

    def traced_total(self) -> Total:
        """`total` as one operation that compilers take as it is."""
        name = self._row_group.group_name
        _MESHES[name] = self

        def total(x: torch.Tensor) -> torch.Tensor:
            torch.ops.sluice.total(x, name)
            return x

        return total

    def exchange(
        self, x: torch.Tensor, sent: Sequence[int], received: Sequence[int]
    ) -> torch.Tensor:
        """All-to-all along the first axis with the ranks that share the tokens.

        Row i gets the i-th of `sent` elements of `x`, and `received` says how many come from it.
        """
        out = x.new_empty(sum(received))
        dist.all_to_all_single(out, x, list(received), list(sent), group=self._column_group)
        others = sum(received) - received[self.row]
        self.received["all_to_all"] += others * x.element_size()
        return out

    def gather(self, x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """The rows of all ranks, one rank's after the other's; `counts` says how many each has.

        All ranks get the very same bits.
        """
        most = max(counts)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        self.received["all_gather"] += (len(counts) - 1) * padded.nbytes
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Rank 0's `x`, in place on the others."""
        dist.broadcast(x, src=0)
        self.received["broadcast"] += x.nbytes if self.rank else 0
        return x

    def image_counts(self, image_tokens: int) -> list[int]:
        """Whose velocity each rank computes for good, of the image tokens of a batch."""
        rows = shares(image_tokens, self.degrees.ulysses)
        return [count for row in rows for count in shares(row, self.degrees.tensor)]


_MESHES: WeakValueDictionary[str, RankMesh] = WeakValueDictionary()
"""By the name of the group that they add up over: compiled code cannot hold the mesh itself."""


@torch.library.custom_op("sluice::total", mutates_args=("x",))
def _total(x: torch.Tensor, group: str) -> None:
    _MESHES[group].total(x)
