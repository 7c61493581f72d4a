"""Jobs in a file of SQLite's, for all processes of one machine."""

from serve.jobs.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
