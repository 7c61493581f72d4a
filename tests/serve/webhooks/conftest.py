"""Fixtures of the webhooks' tests: an authority, and receivers it vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.webhooks.receiver import Authority, Receiver, receiving

HOST = "hooks.example.com"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.in_folder(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Path:
    return authority.issue(HOST)


@pytest.fixture
def receiver(certificate: Path) -> Iterator[Receiver]:
    """Over TLS, as `hooks.example.com`, on 127.0.0.1."""
    with receiving(certificate) as made:
        yield made
