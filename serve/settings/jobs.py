"""The section of the settings about jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import AfterValidator, Field, model_validator

from deployments.options.base import Options
from pipelines.errors import ConfigurationError


def _job_store(value: str) -> str:
    if "://" in value and not re.match(r"(rediss?|unix)://", value):
        raise ValueError("must be the path of a file, redis://HOST:PORT/DATABASE or rediss://...")
    return value


class JobsConfig(Options):
    """Jobs: generations that are stored, and outlive the request that asked for them."""

    section: ClassVar[str] = "jobs"

    enabled: bool = True
    """Whether there are jobs at all; without, their routes answer 404."""

    store: Annotated[str, AfterValidator(_job_store)] | None = Field(default=None, repr=False)
    """Where jobs are kept: the path of an SQLite file, for the ingress replicas of one machine, or
    redis://HOST:PORT/DATABASE (rediss:// with TLS) for those of several; with a password from the
    variable SLUICE_JOBS__STORE alone. Left out, ~/.local/share/sluice/jobs.sqlite3, or below
    XDG_DATA_HOME. One store for each application."""

    ttl_s: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds for which a job is kept that is over. Its files are gone with it, or earlier, by
    `stages.storage.ttl_s`."""

    max_bytes_per_tenant: int = Field(default=2**30, ge=1)
    """Bytes of the images of one tenant's jobs; the oldest jobs leave first."""

    max_waiting_s: float = Field(default=3600.0, gt=0)
    """Seconds of work that may wait in the store, of all tenants; more are answered 429."""

    max_waiting_s_per_tenant: float = Field(default=1800.0, gt=0)
    """The same for each tenant."""

    max_running: int = Field(default=32, ge=1)
    """Images of jobs in flight per ingress replica; the others wait in the store, where they cost
    neither memory nor time of a denoiser. A job of more images runs alone."""

    poll_s: float = Field(default=1.0, gt=0)
    """Seconds after which a replica with free places looks for jobs that others have taken in or
    left behind."""

    @property
    def location(self) -> str:
        """The store, with the default in place of nothing."""
        if self.store is not None:
            return self.store
        data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
        return str(data / "sluice" / "jobs.sqlite3")

    @classmethod
    def refuse_written_password(cls, values: Mapping[str, Any]) -> None:
        """Raises ConfigurationError if settings that others can read, a file or arguments, hold the
        password of a store."""
        section = values.get(cls.section)
        store = cast("dict[str, Any]", section).get("store") if isinstance(section, dict) else None
        if isinstance(store, str) and "://" in store and ("@" in store or "password=" in store):
            raise ConfigurationError(
                "jobs.store: holds a password, and others may see the settings file and arguments;"
                " set SLUICE_JOBS__STORE instead"
            )

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        if self.max_waiting_s_per_tenant > self.max_waiting_s:
            raise self._reject(
                "max_waiting_s_per_tenant",
                f"{self.max_waiting_s_per_tenant:g} is above max_waiting_s; use at most"
                f" {self.max_waiting_s:g}",
            )
        return self
