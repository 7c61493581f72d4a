"""Who the person at this command line is to servers that no gateway tells: a random name, kept.

Jobs are listed to their own user alone, so that whoever knows the name has these jobs.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SLUICE_CLI_USER"

_MAX_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnUser:
    """A name, whether it `is_chosen` by the person, and if it is not, and could not be kept, why:
    it will be another one next time."""

    name: str
    is_chosen: bool = False
    not_kept: str | None = None


def own_user(chosen: str | None) -> OwnUser:
    """`chosen`, or `SLUICE_CLI_USER` of the environment, or the name that is kept in the user's
    configuration; made on first use.

    That it cannot be kept or read stops nothing.
    """
    if name := chosen or os.environ.get(VARIABLE):
        return OwnUser(name=name, is_chosen=True)
    fresh = f"cli-{secrets.token_hex(16)}"
    try:
        path = _path()
        return OwnUser(name=_kept(path) or _keep(path, fresh))
    except OSError as error:
        reason = f"{error.filename or 'the user configuration'}: {error.strerror or error}"
    except (RuntimeError, ValueError) as error:  # no home folder; a file that is no text
        reason = str(error)
    return OwnUser(name=fresh, not_kept=reason)


def _path() -> Path:
    """As XDG's base directories have it."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    return folder / "sluice" / "user"


def _kept(path: Path) -> str | None:
    """What is kept, or None if it is nothing. Raises OSError, ValueError."""
    try:
        name = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    if len(name) > _MAX_CHARS or not name.isprintable():
        raise ValueError(f"{path}: holds no name of a user; remove it")
    return name or None


def _keep(path: Path, name: str) -> str:
    """`name`, once it is kept, or what another process has kept meanwhile. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Whole or not at all, and readable to nobody else: mkstemp makes it so.
    handle, written = tempfile.mkstemp(dir=path.parent, prefix=".user-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{name}\n")
        try:
            os.link(written, path)
        except FileExistsError:
            if (other := _kept(path)) is not None:
                return other
            os.replace(written, path)  # the file was empty
            return name
    finally:
        Path(written).unlink(missing_ok=True)
    return name
