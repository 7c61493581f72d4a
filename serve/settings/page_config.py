"""The section of the settings about the page at `/`."""

from __future__ import annotations

from deployments.options.stages import Options


class PageConfig(Options):
    """The page at `/`, on which people draw."""

    enabled: bool = True
    """Whether it is there: else, and where `jobs.enabled` is off, `/` is answered 404."""
