"""open_job_store: the store that a location names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipelines.errors import ConfigurationError
from serve.jobs.store.delivery_store import DeliveryStore
from serve.jobs.store.job_store import JobStore
from serve.jobs.store.redis import RedisStore
from serve.jobs.store.sqlite import SqliteStore

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})


class Store(JobStore, DeliveryStore, Protocol):
    """What every store is: jobs, and the webhooks that they cause."""


def open_job_store(location: str, *, ttl_s: float) -> Store:
    """A store that is yet to be opened. `location` is a file's path or a Redis's URL; jobs are
    forgotten `ttl_s` after they are over. Raises ConfigurationError for any other URL."""
    scheme, is_url, _ = location.partition("://")
    if not is_url:
        return SqliteStore(Path(location).expanduser(), ttl_s=ttl_s)
    if scheme in REDIS_SCHEMES:
        return RedisStore(location, ttl_s=ttl_s)
    raise ConfigurationError(
        f"jobs.store: {scheme}:// is not known; give the path of a file, or redis:// or rediss://"
        " with a host"
    )
