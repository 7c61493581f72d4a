"""The demo: its parts here, and the whole of it as a user runs it, in processes of their own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from PIL import Image

from serve.cli.client import SluiceClient
from serve.demo.__main__ import PROMPT, curl_line, main, watch
from serve.demo.child_server import SERVE_RUN_PORT, ChildServer, NoPort, ServerDied, choose_port
from serve.demo.process_family import ProcessFamily
from serve.settings.settings import Settings
from tests.cluster import PATIENCE_S, PRIORITY, free_port, wait_until

ROOT = Path(__file__).resolve().parents[3]


def test_a_busy_port_is_passed_over():
    port = free_port()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", port))
        busy.listen()
        assert choose_port(port) > port
    assert choose_port(port) == port


def test_the_curl_line_can_be_pasted():
    words = shlex.split(curl_line("http://127.0.0.1:8000", Path("out put/star.png")))
    assert words[0] == "curl"
    assert "http://127.0.0.1:8000/v1/images/generations" in words
    assert json.loads(words[words.index("-d") + 1])["prompt"]
    assert words[words.index("|") + 1 :][:2] == ["python3", "-c"]
    *_, save, into, output = words
    assert (into, output) == (">", "out put/star.png")
    answer = json.dumps({"data": [{"b64_json": base64.b64encode(b"\x89PNG").decode()}]}).encode()
    saved = subprocess.run([sys.executable, "-c", save], input=answer, capture_output=True)
    assert saved.stdout == b"\x89PNG"


def test_the_log_is_shown_with_its_cause(tmp_path: Path):
    server = ChildServer(8000, log=tmp_path / "demo.log")
    assert server.log_tail() == "(no log: No such file or directory)"
    lines = ["\x1b[36m(pid=1)\x1b[0m pipelines.errors.CheckpointError: /w: no model_index.json"]
    server.log.write_text("\n".join(lines + [f"line {i}" for i in range(50)]))
    tail = server.log_tail(lines=2)
    assert tail == "line 48\nline 49\n\nCause: CheckpointError: /w: no model_index.json"


def test_the_log_of_the_start_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "demo.log").write_text("why the last one failed")
    with stand_in(tmp_path, monkeypatch) as server:
        assert server.log.read_text() == ""
        assert (tmp_path / "demo.previous.log").read_text() == "why the last one failed"


def test_stopping_what_never_started(tmp_path: Path):
    ChildServer(8000, log=tmp_path / "demo.log").stop()
    assert list(tmp_path.iterdir()) == []


def test_another_checkout_is_run_with_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is installed here, or named in the environment."""
    package = tmp_path / "checkout" / "ray" / "serve"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "scripts.py").write_text("import os; print(os.getcwd(), os.environ['PYTHONPATH'])")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    server = ChildServer(8000, log=tmp_path / "demo.log", checkout=tmp_path / "checkout")
    server.start()
    try:
        while not server.log.read_text().endswith("\n"):
            time.sleep(0.01)
    finally:
        server.stop()
    checkout = tmp_path / "checkout"
    assert server.log.read_text() == f"{checkout} {checkout}{os.pathsep}/elsewhere\n"


def test_the_mark_of_its_processes_is_not_taken_for_a_setting(monkeypatch: pytest.MonkeyPatch):
    for name, value in ProcessFamily().environment.items():
        monkeypatch.setenv(name, value)
    Settings.load()


def test_no_free_port():
    with socket.socket() as busy:
        # Whoever else may have it: it is not free.
        with contextlib.suppress(OSError):
            busy.bind(("127.0.0.1", 65_535))
            busy.listen()
        with pytest.raises(NoPort, match="no port of 65535 to 65535 is free"):
            choose_port(65_535)


@pytest.mark.parametrize("port", [-1, 0, 65_536, 70_000])
def test_what_is_no_port(tmp_path: Path, capsys: pytest.CaptureFixture[str], port: int):
    assert main(["--port", str(port), "--output", str(tmp_path / "demo.png")]) == 1
    assert capsys.readouterr().out == (
        f"The demo failed: --port: {port} is not a port; choose one of 1 to 65535\n"
    )


def test_the_log_of_a_start_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with stand_in(tmp_path, monkeypatch) as server, server.log.open("ab", buffering=0) as log:
        log.write(b"one\n\x1b[36mtwo\x1b[0m: Configuration")
        server.check_starting()
        log.write(b"Error: bad\n")
        with pytest.raises(ServerDied, match="could not be deployed"):
            server.check_starting()
        log.write(b"three\n")
        server.check_starting()


def test_a_change_needs_a_dashboard_to_send_it_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with stand_in(tmp_path, monkeypatch) as server:
        with pytest.raises(ServerDied, match="no dashboard"):
            server.deploy({"name": "Denoiser", "user_config": {"policy": "edf"}})
        server.log.write_text("View the dashboard at \x1b[1m\x1b[32mhttp://127.0.0.1:1 \x1b[39m\n")
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ServerDied, match="`serve deploy` was refused"):
            server.deploy({"name": "Denoiser", "user_config": {"policy": "edf"}})


def test_a_ready_server_is_not_ended_by_what_clients_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with stand_in(tmp_path, monkeypatch) as server:
        with server.log.open("ab") as log:
            log.write(b"user='ConfigurationError: x'\n")
        server.check_running()
        server.stop()
        with pytest.raises(ServerDied, match="has ended"):
            server.check_running()


def test_a_request_to_a_dead_ray_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with stand_in(tmp_path, monkeypatch) as server:
        assert server._config is not None
        options = yaml.safe_load(server._config.read_text())["http_options"]
    assert options == {"host": "127.0.0.1", "port": SERVE_RUN_PORT, "request_timeout_s": 630.0}


def test_a_server_that_answers_no_more_is_said_to_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The demo's `serve run` still runs; what it started hangs, as behind a raylet that died. One
    whose proxy died refuses at once, and is back after some seconds."""
    refused, hangs = httpx.ConnectError("refused"), httpx.ReadTimeout("it hangs")
    answers = iter([None, hangs, hangs, None, *[refused] * 20, None, hangs, hangs, hangs, None])
    asked: list[httpx.Request] = []
    now = 0.0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now
        asked.append(request)
        error = next(answers)
        now += 10.0 if error is hangs else 1.0
        if error is None:
            return httpx.Response(200, json={"status": "alive"})
        raise error

    monkeypatch.setattr("serve.demo.__main__._POLL_S", 0.0)
    client = SluiceClient("http://demo", transport=httpx.MockTransport(answer))
    with stand_in(tmp_path, monkeypatch) as server, client:
        with pytest.raises(ServerDied, match="healthz has not answered for 30 s"):
            watch(server, client, lambda: now)
        server.stop()
        assert server.processes() == []
    assert [request.url.path for request in asked] == ["/healthz"] * 28
    assert all(request.extensions["timeout"]["read"] == 10.0 for request in asked)


@pytest.mark.cluster
@pytest.mark.long
def test_a_demo_whose_raylet_dies_says_so_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_STAGES__LAYOUT", "fused")
    demo = Demo(tmp_path)
    assert demo.process.stdout is not None
    shown = ""
    while "Serving until Ctrl-C" not in shown:
        line = demo.process.stdout.readline()
        assert line, shown
        shown += line
    (raylet,) = [each for each in demo.processes() if each.name() == "raylet"]
    raylet.kill()
    output = demo.finish()
    assert demo.process.returncode == 1, output
    assert "The demo failed: " in output
    assert output.endswith("Stopped.\n")
    assert demo.survivors() == []


@contextlib.contextmanager
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[ChildServer]:
    """A started server whose process only sleeps, so that the test writes its log."""
    sleeper = folder / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    server = ChildServer(SERVE_RUN_PORT, log=folder / "demo.log")
    # Children of a process that ignores SIGINT, as what a shell runs in the background does, ignore
    # it too; the demo has a handler of its own.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        server.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        yield server
    finally:
        server.stop()


class Demo:
    """The demo in a process of its own, whose descendants can be told by a mark."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.image = folder / "demo.png"
        self._mark = f"SLUICETEST={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        command = [sys.executable, "-m", "serve.demo", *arguments]
        self.process = subprocess.Popen(
            [*command, "--port", str(free_port()), "--output", str(self.image)],
            cwd=ROOT,
            env={**os.environ, **PRIORITY, name: value, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        try:
            return self.process.communicate(timeout=PATIENCE_S)[0]
        finally:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.communicate(timeout=PATIENCE_S)

    def processes(self) -> list[psutil.Process]:
        """Those that were started by this demo and still run, as far as they keep its mark."""
        name, _, value = self._mark.partition("=")
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(name) == value:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def survivors(self) -> list[str]:
        """Their command lines."""
        return [" ".join(process.cmdline()) for process in self.processes()]


@pytest.mark.cluster
def test_it_draws_one_image_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With one process to wait for instead of six: the quickstart notebook has all of them."""
    monkeypatch.setenv("SLUICE_STAGES__LAYOUT", "fused")
    demo = Demo(tmp_path, "--once")
    output = demo.finish()
    assert demo.process.returncode == 0, output
    with Image.open(demo.image) as image:
        assert image.size == (64, 64)
    assert PROMPT in output
    assert str(demo.image) in output
    assert "Page:   http://127.0.0.1:" in output
    assert "curl " in output
    assert demo.survivors() == []


@pytest.mark.cluster
def test_stopped_while_starting_it_leaves_nothing_behind(tmp_path: Path):
    demo = Demo(tmp_path)
    wait_until(lambda: any("raylet" in line for line in demo.survivors()))
    assert demo.process.poll() is None, demo.finish()
    demo.process.send_signal(signal.SIGTERM)
    output = demo.finish()
    assert demo.process.returncode == 0, output
    assert output.endswith("Stopped.\n")
    assert demo.survivors() == []


@pytest.mark.cluster
@pytest.mark.long
def test_a_stage_that_cannot_start_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLUICE_MODEL_SOURCE", str(tmp_path / "no-weights"))
    monkeypatch.setenv("SLUICE_STAGES__LAYOUT", "fused")  # one process to wait for, not six
    demo = Demo(tmp_path, "--once")
    output = demo.finish()
    assert demo.process.returncode == 1
    assert "Cause: CheckpointError: " in output
    assert "no-weights" in output
    assert demo.survivors() == []


def test_settings_that_cannot_work_are_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLUICE_MODEL", "nope")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main(["--once", "--output", str(tmp_path / "demo.png")]) == 1
    finally:
        signal.signal(signal.SIGINT, handlers[0])
        signal.signal(signal.SIGTERM, handlers[1])
    assert "model: no model is called 'nope'" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
