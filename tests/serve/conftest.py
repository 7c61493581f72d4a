"""Fixtures of the HTTP tests: the application over the fake graph, and clients of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from serve.api.services import Services
from serve.http import create_app
from tests.cluster import cluster
from tests.serve.fakes import FakeGraph, services
from tests.serve.rollout import rollout_client, rollout_file, undisturbed
from tests.serve.woken import woken

__all__ = ["cluster", "rollout_client", "rollout_file", "undisturbed", "woken"]

ClientOf = Callable[[Services], httpx.AsyncClient]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SLUICE_ variable of the developer's shell reaches a test."""
    for name in os.environ:
        if name.startswith("SLUICE_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def builds_for_any_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of other tests, if it runs, has no say in what may be built."""
    monkeypatch.setattr("serve.app.check_machines", lambda _: None)


@pytest.fixture
def graph() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes a client of an application over given services; closes it at the end."""
    made: list[httpx.AsyncClient] = []

    def make(given: Services) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=create_app(given))
        made.append(httpx.AsyncClient(transport=transport, base_url="http://sluice.test"))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture
async def client(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    """A client of the application with default settings over `graph`."""
    return client_of(services(graph))
