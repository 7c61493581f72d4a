"""What Serve's access log leaves out: health checks and metrics that are read again and again.

Serve writes a line for each request in the proxy's log and in the ingress replica's. Probes,
balancers and Prometheus ask every few seconds, so that theirs would be most of the lines. One that
was not answered well is news, and stays.
"""

from __future__ import annotations

import logging
import re

POLLED = ("/health", "/healthz", "/liveness", "/readyz", "/metrics", "/load", "/-/healthz")
"""Routes that programs ask again and again."""

# `[client] METHOD path status milliseconds`, with whatever prefix the application has.
_WELL_ANSWERED_POLL = re.compile(
    rf"(?:\S+ )?(?:GET|HEAD) \S*(?:{'|'.join(map(re.escape, POLLED))}) [23]\d\d \S+ms"
)

logger = logging.getLogger("ray.serve")


class _WithoutPolls(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        is_access = getattr(record, "serve_access_log", False)
        return not (is_access and _WELL_ANSWERED_POLL.fullmatch(record.getMessage()))


_WITHOUT_POLLS = _WithoutPolls()


def leave_polls_out_of_access_log() -> None:
    """From now on, in this process; a second time does nothing."""
    logger.addFilter(_WITHOUT_POLLS)
