"""Lines about a request, as an operator finds them in a log in JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from ray._common.filters import CoreContextFilter
from ray._common.formatters import JSONFormatter
from ray.exceptions import ActorDiedError

import deployments.graph.attempts
from deployments.graph.attempts import MAX_ATTEMPTS
from deployments.graph.failures import translate
from deployments.graph.graph import Graph
from deployments.graph.request_log import RequestLog, logger
from pipelines.contracts import LatentJob, ServiceTerms
from pipelines.errors import StageFailed
from tests.deployments.driver import make_job
from tests.deployments.fakes import FakeStages

TRACE = "0af7651916cd43dd8448eb211c80319c"
PROMPT = "a secret plan"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was logged, each line as Ray writes it in JSON."""
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(deployments.graph.attempts, "RETRY_PAUSE_S", 0.0)
    formatter, context = JSONFormatter(), CoreContextFilter()

    def read() -> list[dict[str, Any]]:
        for record in caplog.records:
            context.filter(record)
        texts = [formatter.format(record) for record in caplog.records]
        assert PROMPT not in "".join(texts)
        assert not any("\n" in text for text in texts)
        return [json.loads(text) for text in texts]

    return read


async def draw(stages: FakeStages) -> None:
    terms = ServiceTerms(tenant="acme")
    job = replace(make_job(prompt=PROMPT), terms=terms, trace_id=TRACE)
    await Graph(stages.handles()).generate(job)


def of_request(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["request"], line["trace"], line["tenant"]


async def test_each_lost_replica_is_a_line(lines: Any) -> None:
    lost = iter(range(MAX_ATTEMPTS - 1))

    async def die_at_first(_: LatentJob) -> None:
        if next(lost, None) is not None:
            raise ActorDiedError()

    await draw(FakeStages(on_denoise=die_at_first))
    found = lines()
    assert [line["event"] for line in found] == ["image_resumed"] * (MAX_ATTEMPTS - 1)
    assert {of_request(line) for line in found} == {("req", TRACE, "acme")}
    assert [line["step"] for line in found] == [0] * (MAX_ATTEMPTS - 1)


async def test_each_repeated_call_is_a_line(lines: Any) -> None:
    async def die(_: LatentJob) -> None:
        raise ActorDiedError()

    with pytest.raises(StageFailed):
        await draw(FakeStages(on_decode=die))
    found = lines()
    assert [(line["event"], line["attempt"]) for line in found] == [
        ("replica_lost", number + 1) for number in range(MAX_ATTEMPTS)
    ]
    assert {of_request(line) for line in found} == {("req", TRACE, "acme")}


def test_what_nobody_foresaw_is_one_line_with_its_traceback(lines: Any) -> None:
    log = RequestLog(request_id="req", trace_id=TRACE, tenant="acme")
    translate(RuntimeError("on fire"), stage="Finisher", log=log)
    (line,) = lines()
    assert line["levelname"] == logging.getLevelName(logging.ERROR)
    assert (line["event"], line["stage"]) == ("stage_failed", "Finisher")
    assert of_request(line) == ("req", TRACE, "acme")
    assert "on fire" in line["exc_text"]
    assert line["message"] == "request req: Finisher failed unexpectedly"
