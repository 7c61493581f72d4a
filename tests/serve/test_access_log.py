from __future__ import annotations

import logging

import pytest

from serve.access_log import POLLED, leave_polls_out_of_access_log
from serve.proxy import middleware

logger = logging.getLogger("ray.serve")


@pytest.fixture(autouse=True)
def _log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "level", logging.INFO)


def _is_logged(caplog: pytest.LogCaptureFixture, line: str, *, access: bool = True) -> bool:
    logger.info(line, extra={"serve_access_log": True} if access else {})
    return line in caplog.messages


@pytest.mark.parametrize("path", POLLED)
@pytest.mark.parametrize("before", ["GET ", "HEAD ", "GET /behind/a/prefix", "10.0.0.1:80 GET "])
def test_polls_that_are_answered_well_are_left_out(
    caplog: pytest.LogCaptureFixture, before: str, path: str
):
    leave_polls_out_of_access_log()
    assert not _is_logged(caplog, f"{before}{path} 200 1.2ms")


@pytest.mark.parametrize(
    "line",
    [
        "GET /readyz 503 1.2ms",
        "GET /healthz CANCELLED 1.2ms",
        "POST /v1/images/generations 200 98.1ms",
        "GET /v1/jobs/job_1 200 2.0ms",
        "GET /traces 200 2.0ms",
    ],
)
def test_all_others_are_logged(caplog: pytest.LogCaptureFixture, line: str):
    leave_polls_out_of_access_log()
    assert _is_logged(caplog, line)


def test_other_lines_than_of_the_access_log_are_logged(caplog: pytest.LogCaptureFixture):
    leave_polls_out_of_access_log()
    assert _is_logged(caplog, "GET /healthz 200 1.2ms", access=False)


def test_proxies_leave_them_out_too(caplog: pytest.LogCaptureFixture):
    middleware()
    assert not _is_logged(caplog, "GET /healthz 200 1.2ms")
