"""A denoiser on several GPUs: the replica is rank 0, and one actor each is a further rank.

The replica's placement group has a bundle for every rank, all on one node (STRICT_PACK), so that
either all ranks find a place or none. Serve creates it with the replica, and removes it, with the
actors in it, when the replica goes; an actor also ends by itself when rank 0 does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.util
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.lifecycle.boundary import end_process
from deployments.options.stages import DenoiserOptions
from pipelines.errors import ConfigurationError, StageFailed
from pipelines.parallel.stage import ParallelStage
from pipelines.parallel.team import RankSettings, free_port

logger = logging.getLogger("ray.serve")

_LAST_WORDS_S = 0.5
"""Once the works are handed over: for their callers to hear of it before the process ends."""
_HANDING_OVER_S = 1.0


class RankActor:
    """A process for one further rank."""

    def __init__(self, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)

    def run(self, settings: RankSettings, rank: int) -> None:
        """Be that rank until rank 0 lets go of it; see `pipelines.parallel.rank.run_rank`."""
        from pipelines.parallel.rank import run_rank

        run_rank(settings, rank)


def start_ranks(source: str, options: DenoiserOptions) -> ParallelStage:
    """Rank 0's stage over the weights in the folder `source`, with the actors of all other ranks.

    Returns when all have their weights. Raises CheckpointError, ConfigurationError, StageLost.
    """
    group = ray.util.get_current_placement_group() if ray.is_initialized() else None
    if group is None:
        raise ConfigurationError(
            "denoiser.parallel: needs a replica on a Ray cluster, with a placement group of its own"
        )
    host = ray.util.get_node_ip_address()
    settings = RankSettings(
        source=source,
        host=host,
        port=free_port(host),
        degrees=options.parallel.degrees,
        device=options.resolved_device,
        dtype=options.dtype,
        attention=options.attention,
        compile=options.compile,
        timeout_s=options.parallel.timeout_s,
    )
    for rank in range(1, options.ranks):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        actor: Any = ray.remote(RankActor).options(
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            resources=dict(options.resources) or None,
            scheduling_strategy=strategy,
        )
        handle = actor.remote(options.resolved_threads)
        _ranks.append((handle, handle.run.remote(settings, rank)))
    return ParallelStage.start(settings)


_ranks: list[tuple[Any, Any]] = []
"""The actors of this process's replica, and the calls that they run: they live as long as these."""


def end_when_lost(
    stage: ParallelStage, hand_over: Callable[[], None], works: Callable[[], int]
) -> None:
    """When a rank is lost, hand all works over and end the process, so that a new one replaces it.

    Works of a tick that failed are given away by the engine; those of an idle moment by this.
    """

    def leave() -> None:
        hand_over()
        deadline = time.monotonic() + _HANDING_OVER_S
        while works() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(_LAST_WORDS_S)
        try:
            stage.check_health()
            reason = "a rank is gone"
        except StageFailed as error:
            reason = error.message
        end_process(reason)

    stage.team.on_loss = threading.Thread(target=leave, name="lost-ranks", daemon=True).start
