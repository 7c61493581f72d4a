from __future__ import annotations

import logging

import pytest

from deployments.lifecycle.refusals_in_log import log_refusals_in_one_line
from pipelines.errors import DegenerateImage

logger = logging.getLogger("ray.serve")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> logging.Handler:
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "filters", [])
    log_refusals_in_one_line()
    log_refusals_in_one_line()
    return caplog.handler


def _logged(error: Exception, words: str) -> None:
    try:
        raise error
    except Exception:
        logger.exception(words)


def test_what_serve_says_of_our_own_error_is_a_line(
    log: logging.Handler, caplog: pytest.LogCaptureFixture
) -> None:
    _logged(DegenerateImage("not 100 % finite"), "Request failed.")
    (record,) = caplog.records
    assert log.format(record).endswith("DegenerateImage: not 100 % finite")
    assert (record.levelname, record.exc_info) == ("INFO", None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("a bug"), "Request failed."),
        (DegenerateImage("not finite"), "Denoiser could not start"),
    ],
)
def test_of_anything_else_all_is_said(
    log: logging.Handler, caplog: pytest.LogCaptureFixture, error: Exception, words: str
) -> None:
    _logged(error, words)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "Traceback" in log.format(record)
