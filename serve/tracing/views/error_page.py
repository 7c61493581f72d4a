"""An error as a page: what is not there, why, and where to go on."""

from __future__ import annotations

from http import HTTPStatus

from serve.settings.sections import TracingConfig
from serve.tracing.views.page import render
from serve.tracing.views.row_text import counted

_LIST = "/traces"
_NOTHING_HERE = "not_found"
_NO_TRACE = "trace_not_found"
_MIB = 2**20


def error_page(
    *, path: str, status: HTTPStatus, code: str, message: str, tracing: TracingConfig
) -> str:
    """The page of an error with this `code` and `message`, at a path of ours."""
    is_trace = code == _NO_TRACE and path != _LIST
    return render(
        "error.html",
        status=int(status),
        heading=_heading(path, status, code),
        message=f"{message[:1].upper()}{message[1:]}.",
        retention=_retention(tracing) if is_trace else "",
        lists_traces=tracing.listed and path != _LIST,
        # Relative, so that a prefix before the application does not matter.
        root="../" * (path.count("/") - 1),
    )


def _heading(path: str, status: HTTPStatus, code: str) -> str:
    if code == _NO_TRACE:
        return "Traces are not listed" if path == _LIST else "This trace is not kept"
    return "There is nothing here" if code == _NOTHING_HERE else status.phrase


def _retention(tracing: TracingConfig) -> str:
    if not tracing.enabled:
        return "No traces are recorded here: tracing.enabled is off."
    return (
        "A trace is kept until newer ones need its place, and no longer than the application runs:"
        f" each ingress replica has room for the latest {counted(tracing.max_spans, 'span')},"
        f" or {tracing.max_bytes / _MIB:,.0f} MiB."
    )
