"""The application behind a real server, for the vendors' own clients."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serve.jobs.store.sqlite import SqliteStore
from tests.serve.fakes import services
from tests.serve.jobs.stepping_graph import SteppingGraph
from tests.serve.live import Live, live
from tests.serve.webhooks.receiver import Authority

ServedOf = Callable[..., Live]


@pytest.fixture
def graph() -> SteppingGraph:
    """Its steps wait for `allow`, in the server's thread."""
    return SteppingGraph()


@pytest.fixture(autouse=True)
def picture(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What files hold: clients open them."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "png")
    monkeypatch.setattr("tests.serve.fakes.PIXELS", file.getvalue())
    return file.getvalue()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.in_folder(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def served_of(tmp_path: Path, graph: SteppingGraph) -> Iterator[ServedOf]:
    """Serves an application over `graph` and a store of jobs until the end of the test."""
    with ExitStack() as stack:

        def make(certificate: Path | None = None, **settings: Any) -> Live:
            given = services(
                graph,
                job_store=SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=1000.0),
                **{"jobs.poll_s": 0.01, "webhooks.poll_s": 0.01, **settings},
            )
            return stack.enter_context(live(given, certificate=certificate))

        yield make


@pytest.fixture
def served(served_of: ServedOf) -> Live:
    return served_of()
