"""Routers that stay with the last replicas of a stage when its whole application is deleted.

Serve tells callers of replicas that run. When an application is deleted none does, yet what is
under way still needs them, and a replica that goes away takes calls for as long as it has any. So
where no replica is left, the controller is asked why. Calls meanwhile go on to those that were
there, and, if the application is deleted, so do all others.
"""

from __future__ import annotations

import asyncio

from ray.serve.request_router import RequestRouter, RunningReplica

from deployments.lifecycle.draining import is_deleted


class StickyReplicas(RequestRouter):
    """A `RequestRouter` of Ray Serve that keeps the replicas of a deleted application."""

    _asking: asyncio.Task[None] | None = None

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve, in the router's event loop."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if replicas or not self.curr_replicas:
            super().update_replicas(replicas)
        else:
            self._asking = asyncio.get_running_loop().create_task(self._let_go())

    async def _let_go(self) -> None:
        if not await asyncio.to_thread(is_deleted, self.app_name):
            super().update_replicas([])
