"""Routers whose last replicas go, alone or with the whole application."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.request_router import RequestRouter

import deployments.routing.sticky
from deployments.routing.sticky import StickyReplicas

A, B = (SimpleNamespace(replica_id=name) for name in "ab")


class Router(StickyReplicas):
    """Without Serve's own state, but for the replicas it knows."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    @property
    def app_name(self) -> str:
        return "app"

    @property
    def curr_replicas(self) -> dict[Any, Any]:
        return self.known

    async def choose_replicas(self, *_: Any, **__: Any) -> list[list[Any]]:
        return [list(self.known.values())]

    async def knows_after(self, *updates: list[Any]) -> list[str]:
        """Its replicas once all is asked and answered."""
        for replicas in updates:
            self.update_replicas(replicas)
        if self._asking is not None:
            await self._asking
        return list(self.known)


@pytest.fixture(autouse=True)
def _plain_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    def update_replicas(self: Router, replicas: list[Any]) -> None:
        self.known = {each.replica_id: each for each in replicas}

    monkeypatch.setattr(RequestRouter, "update_replicas", update_replicas)


@pytest.mark.parametrize(("is_deleted", "left"), [(True, ["a", "b"]), (False, [])])
async def test_the_last_replicas_stay_only_if_the_application_goes(
    monkeypatch: pytest.MonkeyPatch, is_deleted: bool, left: list[str]
) -> None:
    monkeypatch.setattr(
        deployments.routing.sticky, "is_deleted", lambda app: app == "app" and is_deleted
    )
    router = Router()
    assert await router.knows_after([A, B]) == ["a", "b"]
    assert await router.knows_after([]) == left


async def test_a_new_replica_takes_the_place_of_those_that_are_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deployments.routing.sticky, "is_deleted", lambda _: False)
    router = Router()
    assert await router.knows_after([A], [], [B]) == ["b"]
    assert await router.knows_after([A, B], [B]) == ["b"]
