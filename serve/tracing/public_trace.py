"""What of a trace is shown to whoever asks. The operator's own sinks are given all of it."""

from __future__ import annotations

from dataclasses import replace

from serve.settings.settings import Tenants
from serve.tenancy.shown_name import shown_name
from serve.tracing.recorder import Trace

_TENANT = "sluice.tenant"

_NAMES_A_JOB = ("sluice.job_id", "url.path")
"""Who knows the id of a job of no tenant has that job, and it is in the paths that steer one."""


def public_trace(trace: Trace, tenants: Tenants) -> Trace:
    """The trace without what gives access to somebody's jobs: the tenant by its `shown_name`, and
    no job's id. All of that is said of the root."""
    attributes = {
        name: value for name, value in trace.root.attributes.items() if name not in _NAMES_A_JOB
    }
    if tenant := attributes.get(_TENANT):
        attributes[_TENANT] = shown_name(str(tenant), tenants)
    return replace(trace, root=replace(trace.root, attributes=attributes))
