"""Opens the store of jobs that all tests here share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.serve.api.openapi.kept_jobs import FOLDER, KEPT


@pytest.fixture(scope="package", autouse=True)
def kept_jobs() -> Iterator[None]:
    asyncio.run(KEPT.open())
    yield
    asyncio.run(KEPT.close())
    FOLDER.cleanup()
