"""Lines in the log about one request: each names it, its trace and its tenant, never a prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pipelines.contracts import GenerationJob

logger = logging.getLogger("ray.serve")


class RequestLog:
    """Writes lines about one request, with what an operator searches by as fields of their own.

    In text a line begins with the request's id; in JSON `event`, `request`, `trace`, `tenant` and
    the line's own facts are fields.
    """

    def __init__(self, *, request_id: str, trace_id: str = "", tenant: str = "") -> None:
        self._request: Mapping[str, object] = {
            "request": request_id,
            "trace": trace_id,
            "tenant": tenant,
        }

    @classmethod
    def of(cls, job: GenerationJob) -> RequestLog:
        """About the request of this job."""
        return cls(request_id=job.request_id, trace_id=job.trace_id, tenant=job.terms.tenant)

    def warning(self, event: str, text: str, **facts: object) -> None:
        """Something that costs the request time; `text` says what, for people."""
        self._write(logging.WARNING, event, text, facts, None)

    def error(self, event: str, text: str, *, error: BaseException, **facts: object) -> None:
        """Something that nobody foresaw, with its traceback."""
        self._write(logging.ERROR, event, text, facts, error)

    def _write(
        self,
        level: int,
        event: str,
        text: str,
        facts: Mapping[str, object],
        error: BaseException | None,
    ) -> None:
        logger.log(
            level,
            "request %s: %s",
            self._request["request"],
            text,
            exc_info=error,
            extra={"event": event, **self._request, **facts},
        )
