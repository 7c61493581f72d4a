"""`sluice generate --url`, with a server that has jobs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve.cli.jobs.conftest import Run
from tests.serve.cli.jobs.job_server import FILE, PATIENCE_S, JobServer, drawn, output, progress

JOB = f"job_{'0' * 31}1"
GENERATE = ("generate", "a cat", "--seed", "9")


def test_a_job_is_submitted_followed_and_saved(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9, 10, warnings=["a [warning]"])
    outcome = run(*GENERATE, "-n", "2", "-o", str(tmp_path))
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        f"{tmp_path}/a-cat-9.png  seed 9",
        f"{tmp_path}/a-cat-10.png  seed 10",
    ]
    assert (tmp_path / "a-cat-9.png").read_bytes() == FILE
    assert (tmp_path / "a-cat-10.png").read_bytes() == FILE
    assert outcome.err.splitlines() == [
        f"{JOB}: waiting, 3 before it, about 12 s 0/28",
        f"{JOB}: waiting, about 12 s 0/28",
        f"{JOB}: drawing, about 12 s 3/28",
        f"{JOB}: drawing, about 12 s 20/28",
        f"{JOB}: decoding, about 12 s 28/28",
        f"{JOB}: succeeded 28/28",
        "warning: a [warning]",
    ]
    body = server.asked[0].body
    assert {name: body[name] for name in body if name != "user"} == {
        "prompt": "a cat",
        "seed": 9,
        "n": 2,
        "output_format": "png",
    }


def test_its_images_are_in_order(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9, 10)
    server.script[-1]["outputs"].reverse()
    assert run(*GENERATE, "-n", "2").code == 0
    files = [path for path in server.paths("GET") if path.startswith("/v1/files")]
    assert files == ["/v1/files/0", "/v1/files/1"]


def test_jobs_are_whose_they_will_be_looked_for(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9)
    assert run(*GENERATE).code == 0
    kept = (tmp_path / "config" / "sluice" / "user").read_text().strip()
    assert server.asked[0].body["user"] == kept
    assert run("jobs", "list").code == 0
    assert server.asked[-1].query["user"] == kept


def test_a_user_may_be_said(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9)
    assert run(*GENERATE, "--user", "anna").code == 0
    assert server.asked[0].body["user"] == "anna"
    assert not (tmp_path / "config").exists()


def test_a_name_that_cannot_be_kept_is_said_and_stops_nothing(
    run: Run, server: JobServer, tmp_path: Path
):
    (tmp_path / "config").write_text("a file")
    server.script = drawn(9)
    outcome = run(*GENERATE)
    assert outcome.code == 0
    assert f"finds this one with --user {server.asked[0].body['user']}" in outcome.err


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (
            {"status": "failed", "error": {"message": "no decoder is left", "type": "t"}},
            "error: no decoder is left",
        ),
        (
            {"status": "moderated", "error": {"message": "refused by the policy", "type": "t"}},
            "error: refused by the policy",
        ),
        ({"status": "cancelled"}, f"error: {JOB} is cancelled"),
    ],
)
def test_a_job_without_images_is_one_clear_line(
    run: Run, server: JobServer, tmp_path: Path, end: dict[str, object], said: str
):
    server.script = [{"status": "running"}, end]
    outcome = run(*GENERATE)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == said
    assert list(tmp_path.glob("*.png")) == []


def test_a_damaged_file_is_not_saved(run: Run, server: JobServer, tmp_path: Path):
    server.script = drawn(9)
    server.file = FILE[:-1]
    outcome = run(*GENERATE)
    assert outcome.code == 1
    assert "the file of image 0 came damaged" in outcome.err
    assert list(tmp_path.glob("*.png")) == []


def test_a_server_without_jobs_draws_at_once(run: Run, server: JobServer, tmp_path: Path):
    server.has_jobs = False
    outcome = run(*GENERATE)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "a-cat-9.png  seed 9\n"
    assert (tmp_path / "a-cat-9.png").read_bytes() == FILE
    bodies = [asked.body for asked in server.asked if "generations" in asked.path]
    assert bodies == [{"prompt": "a cat", "seed": 9, "output_format": "png"}]


def test_and_is_told_of_a_user_that_was_chosen(run: Run, server: JobServer):
    server.has_jobs = False
    assert run(*GENERATE, "--user", "anna").code == 0
    assert [asked.body["user"] for asked in server.asked if asked.method == "POST"] == ["anna"] * 2


def test_whose_it_is_says_nothing_here(run: Run, monkeypatch: pytest.MonkeyPatch):
    from serve.cli import main as cli

    monkeypatch.setattr(sys, "argv", ["sluice", *GENERATE, "--user", "anna"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


class Interrupted:
    """`sluice generate` as a process of its own, in an empty folder."""

    def __init__(self, url: str, folder: Path) -> None:
        # Whoever started the tests may have told their children to ignore it.
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            "from serve.cli.main import main; main()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *GENERATE, "--url", url],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@pytest.fixture
def start(
    server: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Interrupted]]:
    started: list[Interrupted] = []
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[4]))

    def start_it() -> Interrupted:
        started.append(Interrupted(server.url, tmp_path))
        return started[-1]

    yield start_it
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_ctrl_c_cancels_the_job(
    start: Callable[[], Interrupted], server: JobServer, tmp_path: Path
):
    server.script = drawn(9)[:2]
    generate = start()
    server.wait_for("GET", "/events")
    generate.interrupt()
    code, out, err = generate.end()
    assert (code, out) == (130, "")
    assert server.paths("POST") == ["/v1/jobs", f"/v1/jobs/{JOB}/cancel"]
    assert server.job is not None
    assert server.job["status"] == "cancelled"
    assert "cancelling; Ctrl-C again leaves at once" in err
    assert err.splitlines()[-1] == f"{JOB} is cancelled"
    assert list(tmp_path.glob("*.png")) == []


def test_a_second_ctrl_c_leaves_at_once(start: Callable[[], Interrupted], server: JobServer):
    server.heeds_cancel = False
    generate = start()
    server.wait_for("GET", "/events")
    generate.interrupt()
    server.wait_for("POST", "/cancel")
    generate.interrupt()
    code, out, err = generate.end()
    assert (code, out) == (130, "")
    assert server.job is not None
    assert server.job["status"] == "queued"
    assert "Traceback" not in err


def test_what_was_drawn_before_it_could_be_cancelled_is_saved(
    start: Callable[[], Interrupted], server: JobServer, tmp_path: Path
):
    server.heeds_cancel = False
    generate = start()
    server.wait_for("GET", "/events")
    generate.interrupt()
    server.wait_for("POST", "/cancel")
    server.push(status="succeeded", progress=progress("done", 28), outputs=[output(0, 9)])
    code, out, err = generate.end()
    assert (code, out) == (0, "a-cat-9.png  seed 9\n")
    assert f"{JOB} was finished before that" in err
    assert (tmp_path / "a-cat-9.png").read_bytes() == FILE
