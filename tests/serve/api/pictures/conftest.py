"""An application whose model does every task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipelines.tasks import Task
from serve.api.services import Services
from tests.serve.conftest import ClientOf
from tests.serve.fakes import SPEC, FakeGraph, services

ALL_TASKS = tuple(map(str, Task))


def served(
    graph: FakeGraph,
    *,
    tasks: tuple[str, ...] = ALL_TASKS,
    kinds: tuple[str, ...] = (),
    **more: Any,
) -> Services:
    """Services of a model that does `tasks`, with ControlNets for maps of `kinds`."""
    given = services(graph, spec=replace(SPEC, tasks=tasks), **more)
    given.control_kinds = kinds
    return given


@pytest.fixture
def editing(graph: FakeGraph, client_of: ClientOf) -> httpx.AsyncClient:
    return client_of(served(graph, kinds=("canny", "depth")))
