"""The command line against the routes of the product, over a graph that draws nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from pipelines.errors import StageFailed
from serve.cli import main as cli
from serve.cli.jobs.own_user import own_user
from serve.http import create_app
from serve.jobs.store.sqlite import SqliteStore
from tests.cluster import free_port
from tests.serve.cli.jobs.conftest import Outcome
from tests.serve.fakes import PIXELS, FakeGraph, services

Run = Callable[..., Outcome]


@pytest.fixture
def graph() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
def url(graph: FakeGraph, tmp_path: Path) -> Iterator[str]:
    """Where the application listens, with a store of jobs and a runner."""
    store = SqliteStore(tmp_path / "jobs.sqlite3", ttl_s=1000.0)
    given = services(graph, job_store=store, jobs={"poll_s": 0.01})
    port = free_port()
    config = uvicorn.Config(create_app(given), port=port, log_level="error", lifespan="on")
    server = uvicorn.Server(config)

    async def serve() -> None:
        assert given.jobs is not None
        await given.jobs.open()
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str
) -> Run:
    """Runs `sluice` with arguments and the server's `--url`, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run_it(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sluice", *arguments, "--url", url])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run_it


def listed(run: Run, *arguments: str) -> list[dict[str, object]]:
    outcome = run("jobs", "list", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["data"]


def submit(run: Run, url: str, **body: object) -> str:
    """A job of the command line's own user, that is not waited for; its id."""
    sent = {"prompt": "a cat", "user": own_user(None).name, **body}
    answer = httpx.post(f"{url}/v1/jobs", json=sent)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def test_a_job_from_submit_to_delete(run: Run):
    outcome = run("generate", "a cat", "--seed", "9", "-n", "2")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == ["a-cat-9.png  seed 9", "a-cat-10.png  seed 10"]
    assert Path("a-cat-10.png").read_bytes() == PIXELS
    (job,) = listed(run)
    assert job["status"] == "succeeded"
    assert listed(run, "--status", "queued,running") == []
    assert listed(run, "--user", "somebody") == []
    job_id = str(job["id"])
    outcome = run("jobs", "watch", job_id)
    assert outcome.code == 0
    assert "prompt  " in outcome.out
    assert run("jobs", "cancel", job_id).out == f"{job_id}: it is succeeded\n"
    assert run("jobs", "show", job_id, "--user", "somebody").code == 1
    assert run("jobs", "delete", job_id).code == 0
    assert run("jobs", "show", job_id).code == 1
    assert listed(run) == []


def test_a_job_that_fails(run: Run, graph: FakeGraph):
    graph.error = StageFailed("the decoder is lost", stage="VaeDecoder")
    outcome = run("generate", "a cat")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith("error: ")
    (job,) = listed(run, "--status", "failed")
    assert run("jobs", "watch", str(job["id"])).code == 1


def test_a_job_that_is_steered(run: Run, graph: FakeGraph, url: str):
    graph.hangs = True
    job_id = submit(run, url)
    kept = json.loads(run("jobs", "keep", job_id, "--json").out)
    assert kept["pending_action"] == "keep"
    refused = run("jobs", "delete", job_id)
    assert refused.code == 1
    assert "cancel it" in refused.err
    assert run("jobs", "cancel", job_id).code == 0
    outcome = run("jobs", "watch", job_id)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert [job["status"] for job in listed(run)] == ["cancelled"]


def test_a_refusal_of_the_prompt_is_one_line(run: Run):
    outcome = run("generate", "a cat", "--steps", "100000")
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert listed(run) == []


def test_top_counts_them(run: Run, graph: FakeGraph, url: str):
    graph.hangs = True
    job_id = submit(run, url)
    load = json.loads(run("top", "--json").out)
    assert sum(load["jobs"].values()) == 1
    assert len(load["tenants"]) == 1
    run("jobs", "cancel", job_id)
    run("jobs", "watch", job_id)
