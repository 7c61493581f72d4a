"""`python -m serve.demo` (`make demo`): start the server, draw one image, keep serving.

Runs `serve run` as a child, so that what it shows is what a user would do. Ctrl-C (or SIGTERM)
stops everything that was started here, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from pipelines.errors import ConfigurationError
from serve.api.schemas import ImageGenerationRequest
from serve.cli.client import Images, ServerError, SluiceClient
from serve.demo.child_server import ChildServer, NoPort, ServerDied, choose_port
from serve.settings.settings import Settings

PROMPT = "a red circle left of a blue square on a white background"
SEED = 7
DEFAULT_PORT = 8000

_POLL_S = 1.0
_ANSWER_S = 10.0
_SILENT_S = 30.0
"""Seconds without an answer after which a server is dead: Serve's proxy goes on when Ray has died
behind it, and so does `serve run`. Shorter is a proxy that died, which is back after some seconds.
"""
_SPARE_S = 30.0

_console = Console(highlight=False, soft_wrap=True)


class _Stopped(Exception):
    """Ctrl-C or SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is 0 when an image was drawn, or it was stopped by hand."""
    options = _parse(arguments)
    try:
        port = choose_port(options.port)
    except NoPort as error:
        _console.print(f"[red]The demo failed:[/red] --port: {error}")
        return 1
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    if port != options.port:
        _console.print(f"Port {options.port} is busy; using {port}.")
    server = ChildServer(port, log=options.output.with_name("demo.log"))
    try:
        # Bad settings are said here, in one line, instead of somewhere in Ray's log.
        settings = Settings.load()
        settings.model_spec()
        server.request_timeout_s = settings.limits.request_timeout_s + _SPARE_S
        return _show(server, options.output, once=options.once, timeout_s=options.timeout)
    except _Stopped:
        return 0
    except ConfigurationError as error:
        _console.print(f"[red]The demo failed:[/red] {escape(error.message)}")
        return 1
    except (ServerDied, ServerError) as error:
        _console.print(f"The end of {server.log}:\n{server.log_tail()}\n", markup=False)
        _console.print(f"[red]The demo failed:[/red] {escape(str(error))}")
        return 1
    finally:
        # From here on a second Ctrl-C must not interrupt the cleaning up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if server.started:
            _console.print("Stopping the server ...")
            server.stop()
            _console.print("Stopped.")


def curl_line(url: str, output: Path) -> str:
    """A command that draws another image and saves it, with nothing but curl and Python."""
    body = json.dumps({"prompt": "a green star on a black background"})
    save = (
        "import base64,json,sys;"
        'sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))'
    )
    return (
        f"curl -sS --fail-with-body {url}/v1/images/generations"
        f" -H 'content-type: application/json' -d '{body}' | python3 -c '{save}'"
        f" > {shlex.quote(str(output))}"
    )


def _show(server: ChildServer, output: Path, *, once: bool, timeout_s: float) -> int:
    _console.print(f"Starting `{' '.join(server.shown_command)}` (log: {server.log})")
    server.start()
    with SluiceClient(server.url) as client:
        _wait_until_ready(server, client, timeout_s)
        started = time.monotonic()
        answer = client.generate(ImageGenerationRequest(prompt=PROMPT, seed=SEED))
        seconds = time.monotonic() - started
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(client.image_bytes(answer.data[0]))
        _announce(server, output, answer, seconds)
        if once:
            return 0
        _console.print("\nServing until Ctrl-C.")
        watch(server, client)


def watch(
    server: ChildServer, client: SluiceClient, clock: Callable[[], float] = time.monotonic
) -> NoReturn:
    """Look after a server that is ready. Raises ServerDied when it ends, or answers no more."""
    answered = clock()
    while True:
        time.sleep(_POLL_S)
        server.check_running()
        if client.is_alive(timeout_s=_ANSWER_S):
            answered = clock()
        elif clock() - answered >= _SILENT_S:
            raise ServerDied(
                f"{server.url}/healthz has not answered for {_SILENT_S:g} s: Ray has died, or this"
                " machine is out of memory; start the demo again"
            )


def _announce(server: ChildServer, output: Path, answer: Images, seconds: float) -> None:
    _console.print(f'\nDrew "{PROMPT}" ({answer.size}, seed {SEED}) in {seconds:.2f} s.')
    _console.print(f"Image:  {output.resolve()}")
    _console.print(f"Page:   {server.url}/")
    _console.print(f"API:    {server.url}/docs")
    _console.print(f"Traces: {server.url}/traces")
    _console.print(f"\nTry:\n{curl_line(server.url, output.with_name('star.png'))}", markup=False)


def _wait_until_ready(server: ChildServer, client: SluiceClient, timeout_s: float) -> None:
    """Poll /readyz; `serve run` exits 0 after a failed deployment, so only HTTP tells."""
    deadline = time.monotonic() + timeout_s
    with _console.status("waiting for the stages") as line:
        while True:
            server.check_starting()
            stages = client.readiness() or {}
            if stages and all(stages.values()):
                _console.print(f"Ready: {', '.join(stages)}.")
                return
            if time.monotonic() > deadline:
                waiting = [name for name, ready in stages.items() if not ready] or ["the ingress"]
                raise ServerDied(f"not ready after {timeout_s:g} s; missing: {', '.join(waiting)}")
            done = [name for name, ready in stages.items() if ready]
            line.update(f"waiting for the stages; ready: {', '.join(done) or 'none yet'}")
            time.sleep(_POLL_S)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serve.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after the image")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="or the next free one")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to become ready")
    parser.add_argument("--output", type=Path, default=Path("output/demo.png"))
    return parser.parse_args(arguments)


def _stop(_: int, __: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
