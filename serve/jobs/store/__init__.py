"""Where jobs are kept: one protocol, SQLite and Redis behind it."""
