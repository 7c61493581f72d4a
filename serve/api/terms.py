"""Whose a request is, and when it is wanted. Pure: the time of arrival comes in as an argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.contracts import ServiceTerms
from pipelines.errors import InvalidRequest
from serve.api.schemas import ImageGenerationRequest
from serve.api.values import check_within
from serve.settings.sections import MAX_PRIORITY, MIN_PRIORITY
from serve.settings.settings import Deadlines, Tenants

MAX_TENANT_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Punctuality:
    """How an answer stands to its deadline: milliseconds from the request's arrival, rounded up."""

    deadline_ms: int
    took_ms: int

    @property
    def is_met(self) -> bool:
        """Whether the answer was there in time."""
        return self.took_ms <= self.deadline_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedTerms:
    """When a request is wanted: milliseconds after its arrival, or None for no deadline.

    With `refuses_late`, a deadline that cannot be kept is answered with an error at once.
    """

    deadline_ms: int | None
    refuses_late: bool
    priority: int

    def terms(self, *, tenant: str, arrived: float) -> ServiceTerms:
        """The wish of `tenant` for a request that arrived at `arrived`, Unix seconds."""
        return ServiceTerms(
            tenant=tenant,
            deadline=None if self.deadline_ms is None else arrived + self.deadline_ms / 1000,
            priority=self.priority,
            refuses_late=self.refuses_late,
        )

    def punctuality(self, elapsed_s: float) -> Punctuality | None:
        """Of an answer so long after the request's arrival; None without a deadline."""
        if self.deadline_ms is None:
            return None
        took_ms = math.ceil(max(0.0, elapsed_s) * 1000)
        return Punctuality(deadline_ms=self.deadline_ms, took_ms=took_ms)


def requested_terms(request: ImageGenerationRequest, deadlines: Deadlines) -> RequestedTerms:
    """What `request` says, else the server's defaults, by which nothing is refused.

    Raises InvalidRequest naming `deadline_ms` or `priority`.
    """
    deadline_ms, priority = request.deadline_ms, request.priority
    if deadline_ms is not None:
        check_within("deadline_ms", deadline_ms, 1, deadlines.max_ms)
    if priority is not None:
        check_within("priority", priority, MIN_PRIORITY, MAX_PRIORITY)
    return RequestedTerms(
        deadline_ms=deadlines.default_ms if deadline_ms is None else deadline_ms,
        refuses_late=deadline_ms is not None and deadlines.unreachable == "refuse",
        priority=deadlines.default_priority if priority is None else priority,
    )


def tenant_of(
    request: ImageGenerationRequest, header_values: Sequence[str], tenants: Tenants
) -> str:
    """The tenant's name, "" for all who have none.

    `header_values` are those of the header `tenants.header`. Where one is configured, what the
    client says of its user names no tenant: it could be another's. Raises InvalidRequest for
    several values, of which one may be the client's, and for a name that is too long.
    """
    if tenants.header is None:
        return request.safety_identifier or request.user or ""
    if len(header_values) > 1:
        raise InvalidRequest(
            f"{tenants.header}: given {len(header_values)} times; the gateway must replace what"
            " clients send",
            param=tenants.header,
        )
    name = header_values[0] if header_values else ""
    if len(name) > MAX_TENANT_CHARS:
        raise InvalidRequest(
            f"{tenants.header}: at most {MAX_TENANT_CHARS} characters, got {len(name)}",
            param=tenants.header,
        )
    return name
