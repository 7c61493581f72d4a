"""A store of jobs for tests that look at answers alone: nobody runs its jobs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from serve.jobs.store.sqlite import SqliteStore

FOLDER = TemporaryDirectory(prefix="sluice-kept-jobs")

KEPT = SqliteStore(Path(FOLDER.name) / "jobs.sqlite3", ttl_s=1000.0)
"""One for all of them, as applications are made where tests are collected; open while they run."""
