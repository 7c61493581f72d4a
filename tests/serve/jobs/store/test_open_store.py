"""Which store a location names."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigurationError
from serve.jobs.store.open_store import open_job_store
from serve.jobs.store.redis import RedisStore
from serve.jobs.store.sqlite import SqliteStore


@pytest.mark.parametrize("location", ["jobs.sqlite3", "/var/lib/sluice/jobs.db", "~/jobs"])
def test_a_path_is_a_file_of_sqlite(location: str) -> None:
    assert isinstance(open_job_store(location, ttl_s=1.0), SqliteStore)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_url_of_redis(scheme: str) -> None:
    store = open_job_store(f"{scheme}://localhost:6379/0", ttl_s=1.0)
    assert isinstance(store, RedisStore)
    await store.close()


@pytest.mark.parametrize("location", ["postgres://host/jobs", "sqlite:///jobs.db", "://"])
def test_another_url_is_refused(location: str) -> None:
    with pytest.raises(ConfigurationError, match=r"jobs\.store: .*redis://"):
        open_job_store(location, ttl_s=1.0)
