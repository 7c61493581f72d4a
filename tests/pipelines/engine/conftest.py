"""Engines over the stand-in stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.engine.engine import Engine
from tests.pipelines.engine.fakes import (
    BYTES_PER_TOKEN,
    ONE_AT_A_TIME,
    TOKENS,
    FakeStage,
    make_engine,
)


@pytest.fixture
def stage() -> FakeStage:
    return FakeStage()


@pytest.fixture
def engine(stage: FakeStage) -> Iterator[Engine]:
    engine = make_engine(stage)
    engine.start()
    yield engine
    stage.gate.set()
    engine.stop()


@pytest.fixture
def serial_engine(stage: FakeStage) -> Iterator[Engine]:
    """Steps one work at a time, and keeps one trajectory in memory."""
    engine = make_engine(stage, surface=ONE_AT_A_TIME, max_bytes=BYTES_PER_TOKEN * TOKENS)
    engine.start()
    yield engine
    stage.gate.set()
    engine.stop()
