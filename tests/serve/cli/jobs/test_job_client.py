from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serve.cli.client import ServerError, SluiceClient, Unreachable
from serve.cli.jobs.job_client import JobClient
from serve.cli.jobs.remote_job import RemoteJob
from serve.jobs.job import JobStatus
from tests.serve.cli.jobs.job_server import JobServer, drawn, queued_job


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def client(server: JobServer, slept: list[float]) -> Iterator[JobClient]:
    with SluiceClient(server.url) as http:
        yield JobClient(http, "anna", sleep=slept.append)


def test_a_submit_says_who_and_which(client: JobClient, server: JobServer):
    job = client.submit({"prompt": "a cat"}, "k")
    assert job is not None
    assert (job.status, job.queue and job.queue.position) == (JobStatus.QUEUED, 3)
    (asked,) = server.asked
    assert asked.body == {"prompt": "a cat", "user": "anna"}
    assert asked.headers["idempotency-key"] == "k"


@pytest.mark.parametrize("faults", [[503], [502, 504]])
def test_a_submit_is_sent_again_under_its_key(
    client: JobClient, server: JobServer, slept: list[float], faults: list[int]
):
    server.faults = list(faults)
    assert client.submit({"prompt": "a cat"}, "k") is not None
    assert {asked.headers["idempotency-key"] for asked in server.asked} == {"k"}
    assert len(server.asked) == len(slept) + 1 == len(faults) + 1


def test_a_submit_is_not_sent_for_ever(client: JobClient, server: JobServer):
    server.faults = [503] * 9
    with pytest.raises(ServerError, match="not now"):
        client.submit({}, "k")
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 409, 429, 500])
def test_a_refusal_is_final(client: JobClient, server: JobServer, status: int):
    server.faults = [status]
    with pytest.raises(ServerError, match="not now") as caught:
        client.submit({}, "k")
    assert (caught.value.status, len(server.asked)) == (status, 1)


def test_a_server_without_jobs(client: JobClient, server: JobServer):
    server.has_jobs = False
    assert client.submit({}, "k") is None


def test_a_server_whose_jobs_are_off():
    error = {"message": "jobs.enabled is off", "code": "job_not_found", "param": None}
    transport = httpx.MockTransport(lambda _: httpx.Response(404, json={"error": error}))
    with SluiceClient("http://s", transport=transport) as http:
        assert JobClient(http, "anna").submit({}, "k") is None


def test_a_model_that_is_not_there_is_no_server_without_jobs():
    error = {"message": "no model 'x'", "code": "model_not_found", "param": "model"}
    transport = httpx.MockTransport(lambda _: httpx.Response(404, json={"error": error}))
    with (
        SluiceClient("http://s", transport=transport) as http,
        pytest.raises(ServerError, match="no model 'x'"),
    ):
        JobClient(http, "anna").submit({}, "k")


def test_nobody_there(slept: list[float]):
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with (
        SluiceClient("http://s", transport=httpx.MockTransport(refuse)) as http,
        pytest.raises(Unreachable, match="http://s cannot be reached: refused"),
    ):
        JobClient(http, "anna", sleep=slept.append).submit({}, "k")
    assert len(slept) == 2


def followed(client: JobClient, server: JobServer) -> list[RemoteJob]:
    """Every state that is shown of the job that the server has; the last is what is returned."""
    shown: list[RemoteJob] = []
    assert server.job is not None
    assert client.follow(server.job["id"], shown.append) == shown[-1]
    return shown


def steps(jobs: list[RemoteJob]) -> list[int]:
    return [job.progress.step for job in jobs if job.progress and job.status == "running"]


def test_a_job_is_followed_to_its_end(client: JobClient, server: JobServer, slept: list[float]):
    server.make()
    server.script = drawn(9)
    jobs = followed(client, server)
    assert steps(jobs) == [0, 3, 20, 28]
    assert jobs[-1].status is JobStatus.SUCCEEDED
    assert [output.seed for output in jobs[-1].outputs] == [9]
    assert slept == []
    assert {asked.query["user"] for asked in server.asked} == {"anna"}


def test_a_stream_that_breaks_is_taken_up_where_it_ended(
    client: JobClient, server: JobServer, slept: list[float]
):
    server.make()
    server.script = drawn(9)
    server.breaks = [2, 4]
    jobs = followed(client, server)
    assert jobs[-1].status is JobStatus.SUCCEEDED
    streams = [
        asked.headers.get("last-event-id") for asked in server.asked if "events" in asked.path
    ]
    assert streams == [None, "2", "4"]
    assert len(slept) == 2


def test_a_place_in_the_queue_is_asked_for_while_there_is_no_event(
    client: JobClient, server: JobServer
):
    """Comments come, and places move without an event."""
    server.make()
    server.script = [{}, *drawn(9)]
    jobs = followed(client, server)
    asked_for = [path for path in server.paths("GET") if not path.endswith("events")]
    assert len(asked_for) == 2
    assert [job.status for job in jobs][:4] == [*["queued"] * 3, "running"]


def test_where_no_stream_can_be_had_it_is_asked_again(
    client: JobClient, server: JobServer, slept: list[float]
):
    server.has_streams = False
    server.make()
    server.script = drawn(9)
    jobs = followed(client, server)
    assert jobs[-1].status is JobStatus.SUCCEEDED
    assert sum(path.endswith("events") for path in server.paths("GET")) == 1
    assert set(slept) == {1.0}


def test_what_is_no_stream_is_not_read_as_one(slept: list[float]):
    """Such as the page of a proxy."""
    waiting = [queued_job()] * 2

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("events"):
            return httpx.Response(200, html="<html>")
        return httpx.Response(200, json=waiting.pop() if waiting else over)

    over = {**queued_job(), "status": "failed"}
    with SluiceClient("http://s", transport=httpx.MockTransport(answer)) as http:
        job = JobClient(http, "anna", sleep=slept.append).follow("job_1")
    assert job.status is JobStatus.FAILED
    assert slept == [1.0, 1.0]


def test_a_server_that_comes_back_is_waited_for(slept: list[float]):
    answers = [httpx.Response(200, json=queued_job())]

    def answer(request: httpx.Request) -> httpx.Response:
        if answers:
            return answers.pop()
        if len(slept) < 6:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={**queued_job(), "status": "cancelled"})

    with SluiceClient("http://s", transport=httpx.MockTransport(answer)) as http:
        job = JobClient(http, "anna", sleep=slept.append).follow("job_1")
    assert job.status is JobStatus.CANCELLED
    assert slept == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_but_not_for_ever(slept: list[float]):
    answers = [httpx.Response(200, json=queued_job())]

    def answer(request: httpx.Request) -> httpx.Response:
        if answers:
            return answers.pop()
        raise httpx.ReadTimeout("slow")

    with (
        SluiceClient("http://s", transport=httpx.MockTransport(answer)) as http,
        pytest.raises(ServerError, match="did not answer in time; the job may go on there: job_1"),
    ):
        JobClient(http, "anna", sleep=slept.append).follow("job_1")
    assert len(slept) == 30


def test_a_job_that_is_deleted_meanwhile(client: JobClient, server: JobServer):
    server.make()
    server.script = drawn(9)[:2]
    server.breaks = [3]

    def forget(job: RemoteJob) -> None:
        if job.progress is not None and job.progress.step == 3:
            server.job = None

    with pytest.raises(ServerError, match=r"no job 'job_0+1' is yours"):
        client.follow(f"job_{'0' * 31}1", forget)


def test_pages_are_put_together(client: JobClient, server: JobServer):
    server.others = [
        {**queued_job(), "id": f"job_{i}", "status": "queued" if i % 2 else "failed"}
        for i in range(7)
    ]
    assert [job.id for job in client.latest((), limit=5)] == [f"job_{i}" for i in range(5)]
    assert [job.id for job in client.latest([JobStatus.QUEUED], limit=50)] == [
        "job_1",
        "job_3",
        "job_5",
    ]


def test_an_id_is_no_path(client: JobClient, server: JobServer):
    with pytest.raises(ServerError):
        client.get("../models")
    assert server.asked[0].path == "/v1/jobs/..%2Fmodels"
