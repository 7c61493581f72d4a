"""What Serve logs of our own errors: a line, where it would write its own traceback.

Serve logs every error that leaves a replica as if nobody had foreseen it. Ours are answers, and
what nobody foresaw is logged with its traceback before it becomes one (`boundary.py`).
"""

from __future__ import annotations

import logging

from pipelines.errors import SluiceError

_SERVES_WORDS = "Request failed."

logger = logging.getLogger("ray.serve")


class _InOneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if record.msg == _SERVES_WORDS and isinstance(error, SluiceError):
            record.msg, record.args = "%s: %s", (type(error).__name__, error.message)
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
            record.exc_info = None
        return True


_IN_ONE_LINE = _InOneLine()


def log_refusals_in_one_line() -> None:
    """From now on, in this process; a second time does nothing."""
    logger.addFilter(_IN_ONE_LINE)
