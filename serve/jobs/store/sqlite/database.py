"""The database file: made, checked and opened. Knows its schema's version, not what is in it."""

from __future__ import annotations

import os
import sqlite3
from importlib.resources import files
from pathlib import Path

from pipelines.errors import ConfigurationError, StoreUnavailable

VERSION = 2
APPLICATION_ID = 0x536C7563
"""Marks a database as ours in the header of its file."""

NOW_AND_THEN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary error codes that are a disk's, a lock's or a file's; the others are mistakes of ours."""


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's error code without its detail, 0 for an error of the Python module's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def unavailable(path: Path, error: sqlite3.Error) -> Exception:
    """The error that callers get for one of SQLite's."""
    if primary_code(error) in NOW_AND_THEN:
        return StoreUnavailable(f"the job store {path} cannot be used now: {error}")
    return error


class Database:
    """`busy_timeout_s` is how long a write waits for another process's."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s

    def prepare(self) -> sqlite3.Connection:
        """The file, made if there is none, as a connection that writes. Raises ConfigurationError,
        with nothing touched, for a file or folder that cannot serve."""
        try:
            self._make_file()
        except OSError as error:
            raise ConfigurationError(
                f"jobs.store: {self.path} cannot be made or opened: {error.strerror}; name a file"
                " in a folder that this process may write to"
            ) from error
        try:
            self._check()
            connection = self.connect()
            try:
                self._make_schema(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise self._refused(error) from error
        return connection

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """Statements commit by themselves, outside of an explicit transaction."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _make_file(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:  # another process was first
                return
        elif not self.path.is_file():
            raise IsADirectoryError(0, "it is not a file")
        for needed in (self.path, self.path.parent):
            if not os.access(needed, os.R_OK | os.W_OK):
                raise PermissionError(0, f"no permission to write to {needed}")

    def _check(self) -> None:
        """Refuse a file that is damaged or not ours, before anything is written to it."""
        # What a crash has left is not read into the file before it is known to be ours. Without
        # it nothing is written either way, but only who may write takes its log away at the end.
        logs = [self.path.with_name(self.path.name + end) for end in ("-wal", "-journal")]
        connection = self.connect(read_only=any(log.exists() for log in logs))
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables and application != APPLICATION_ID:
                raise ConfigurationError(
                    f"jobs.store: {self.path} is a database of another program's; name another file"
                )
            if version > VERSION:
                raise ConfigurationError(
                    f"jobs.store: {self.path} has version {version}, written by a newer Sluice;"
                    f" this one knows up to {VERSION}: update it, or name another file"
                )
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
        if found != "ok":
            raise ConfigurationError(self._damaged(found))

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("BEGIN IMMEDIATE")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                name = "schema.sql" if version == 0 else f"from_{version}.sql"
                schema = files("serve.jobs.store.sqlite").joinpath(name).read_text("utf-8")
                for statement in schema.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _refused(self, error: sqlite3.Error) -> ConfigurationError:
        match primary_code(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                message = (
                    f"jobs.store: {self.path} is locked by another program, still after"
                    f" {self._busy_timeout_s:g} s; end that program, or name another file"
                )
            case sqlite3.SQLITE_NOTADB:
                message = (
                    f"jobs.store: {self.path} is not an SQLite database; name another file, or"
                    " move this one away"
                )
            case sqlite3.SQLITE_CORRUPT:
                message = self._damaged(str(error))
            case _:
                message = f"jobs.store: {self.path} cannot be opened: {error}"
        return ConfigurationError(message)

    def _damaged(self, found: str) -> str:
        return (
            f"jobs.store: {self.path} is damaged ({found.splitlines()[-1]}); nothing was changed."
            " Restore it from a copy, or move it away to begin with an empty one"
        )
