"""`sluice jobs`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve.cli import main as cli
from serve.tracing.views.format import moment
from tests.cluster import free_port
from tests.serve.cli.jobs.conftest import Run
from tests.serve.cli.jobs.job_server import JobServer, drawn, output, progress, queued_job

JOB = f"job_{'0' * 31}1"


def words(text: str) -> str:
    return " ".join(text.split())


class TestList:
    def test_the_newest_first(self, run: Run, server: JobServer):
        server.make(progress=progress("denoise", 7), request={"prompt": "a [red]\ncat"})
        server.others = [{**queued_job(), "id": "job_2", "status": "failed"}]
        outcome = run("jobs", "list", "--user", "anna")
        assert outcome.code == 0, outcome.err
        rows = [line.split() for line in outcome.out.splitlines() if "job_" in line]
        assert [row[:3] for row in rows] == [[JOB, "queued", "7/28"], ["job_2", "failed", "0/28"]]
        assert rows[0][-3:] == ["a", "[red]", "cat"]
        assert server.asked[0].query == {"user": "anna", "limit": "20"}

    @pytest.mark.parametrize("arguments", [("queued,failed",), ("queued", "--status", "failed")])
    def test_of_a_status(self, run: Run, server: JobServer, arguments: tuple[str, ...]):
        server.others = [{**queued_job(), "status": "succeeded"}]
        outcome = run("jobs", "list", "--status", *arguments)
        assert outcome.out == "No job of yours is like this.\n"
        assert server.asked[0].query["status"] == "queued,failed"

    def test_none_yet(self, run: Run):
        assert run("jobs", "list").out == "No job of yours yet.\n"

    def test_another_word_is_no_status(self, run: Run, server: JobServer):
        outcome = run("jobs", "list", "--status", "done")
        assert outcome.code == 2
        assert "'done' is no status" in words(outcome.err.replace("│", ""))
        assert server.asked == []

    def test_for_programs(self, run: Run, server: JobServer):
        server.others = [queued_job()] * 3
        outcome = run("jobs", "list", "--json", "--limit", "3")
        assert json.loads(outcome.out) == {"object": "list", "data": [queued_job()] * 3}


class TestShow:
    def test_all_of_it(self, run: Run, server: JobServer):
        server.make(
            status="succeeded",
            started_at=2.0,
            finished_at=4.5,
            outputs=[output(0, 9)],
            usage={"device_seconds": 1.5, "megapixel_steps": None},
            warnings=["a [warning]"],
            attempts=2,
        )
        out = words(run("jobs", "show", JOB).out)
        for said in (
            f"job {JOB} status succeeded",
            "prompt a cat",
            "seed 9",
            "took 2.5 s",
            "image 0 /v1/files/0 64x64, seed 9",
            "device seconds 1.5",
            "attempts 2",
            "warning a [warning]",
            f"trace {'ab' * 16}",
        ):
            assert said in out

    def test_files_that_expire(self, run: Run, server: JobServer):
        kept = [output(0, 9) | {"expires_at": 4.5}, output(1, 10) | {"expires_at": 2**32}]
        server.make(status="succeeded", finished_at=2.0, outputs=kept)
        out = words(run("jobs", "show", JOB).out)
        assert "seed 9, its file has expired" in out
        assert f"seed 10, kept until {moment(2**32)}" in out

    def test_one_that_waits(self, run: Run, server: JobServer):
        server.make()
        out = words(run("jobs", "show", JOB).out)
        assert "progress waiting, 3 before it, about 12 s 0/28" in out
        assert "expected by denoisers are busy" in out

    def test_for_programs(self, run: Run, server: JobServer):
        made = server.make()
        assert json.loads(run("jobs", "show", JOB, "--json").out) == made

    def test_an_unknown_job(self, run: Run):
        outcome = run("jobs", "show", "job_9")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "error: no job 'job_9' is yours\n"


class TestWatch:
    def test_to_its_end(self, run: Run, server: JobServer):
        server.make()
        server.script = drawn(9)
        outcome = run("jobs", "watch", JOB)
        assert outcome.code == 0
        assert outcome.err.splitlines()[-1] == f"{JOB}: succeeded 28/28"
        assert "image 0 /v1/files/0 64x64, seed 9" in words(outcome.out)

    def test_one_that_fails(self, run: Run, server: JobServer):
        server.make()
        server.script = [{"status": "failed", "error": {"message": "lost", "type": "t"}}]
        outcome = run("jobs", "watch", JOB)
        assert outcome.code == 1
        assert outcome.err.splitlines()[-1] == "error: lost"

    def test_for_programs(self, run: Run, server: JobServer):
        server.make()
        server.script = drawn(9)
        outcome = run("jobs", "watch", JOB, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        states = [json.loads(line) for line in outcome.out.splitlines()]
        assert [state["status"] for state in states[-5:]] == [*["running"] * 4, "succeeded"]
        assert states[-1]["of_a_newer_server"] == 1


class TestSteer:
    def test_cancel(self, run: Run, server: JobServer):
        server.make()
        outcome = run("jobs", "cancel", JOB)
        assert (outcome.code, outcome.out) == (0, f"{JOB}: it is cancelled\n")

    def test_a_cancel_that_takes_a_moment(self, run: Run, server: JobServer):
        server.make()
        server.heeds_cancel = False
        assert run("jobs", "cancel", JOB).out == f"{JOB}: it is being cancelled\n"

    def test_keep(self, run: Run, server: JobServer):
        server.make()
        assert run("jobs", "keep", JOB).out == f"{JOB}: it is being finished\n"
        outcome = run("jobs", "keep", JOB, "--json")
        assert json.loads(outcome.out)["pending_action"] == "keep"

    def test_delete(self, run: Run, server: JobServer):
        server.make()
        outcome = run("jobs", "delete", JOB)
        assert outcome.code == 1
        assert outcome.err == "error: the job is not over: cancel it first\n"
        server.push(status="failed")
        outcome = run("jobs", "delete", JOB)
        assert (outcome.code, outcome.out) == (0, f"{JOB} is deleted\n")

    @pytest.mark.parametrize("command", ["watch", "cancel", "keep", "delete"])
    def test_an_unknown_job(self, run: Run, command: str):
        outcome = run("jobs", command, "job_9")
        assert outcome.code == 1
        assert outcome.err == "error: no job 'job_9' is yours\n"


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr("sys.argv", ["sluice", "jobs", "list", "--url", url])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {url} cannot be reached: ")


def test_a_name_that_cannot_be_kept_is_said(run: Run, tmp_path: Path):
    (tmp_path / "config").write_text("a file")
    outcome = run("jobs", "list")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: who you are could not be kept")
    assert outcome.err.endswith("use --user\n")
