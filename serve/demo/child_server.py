"""One `serve run` as a child process, and everything that it starts in turn."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import yaml

from serve.cli.configurations import BUILDER
from serve.demo.process_family import ProcessFamily

HOST = "127.0.0.1"
SERVE_RUN_PORT = 8000
"""Where `serve run module:builder` listens; only a configuration file can choose another port."""

RAY_SERVE_VARIABLES = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middleware",
}
"""One event loop in each replica instead of three, as no coroutine here blocks: small images cost
less processor time when fewer threads hand them on. And `serve.proxy` around Serve's proxies."""

_ROOT = Path(__file__).resolve().parents[2]
_LAST_PORT = 65_535
_GRACE_S = 30.0
# What Serve's controller and client write once they have given up, and what no retry can mend.
_FAILED_DEPLOYMENT = re.compile(
    r"Failed to update the deployments \[[^]]*\]|Deploying app(?:lication)? '?\w+'? failed"
    r"|(?:CheckpointError|ConfigurationError): "
)
_OWN_ERROR = re.compile(r"pipelines\.errors\.(\w+: .+)")
_DASHBOARD = re.compile(r"dashboard at (http://\S+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ServerDied(Exception):
    """The server ended, or cannot come up."""


class NoPort(Exception):
    """There is no port to listen on."""


def choose_port(wanted: int) -> int:
    """`wanted`, or the first free port above it. Raises NoPort if there is none."""
    if not 1 <= wanted <= _LAST_PORT:
        raise NoPort(f"{wanted} is not a port; choose one of 1 to {_LAST_PORT}")
    last = min(wanted + 99, _LAST_PORT)
    for port in range(wanted, last + 1):
        if _is_free(port):
            return port
    raise NoPort(f"no port of {wanted} to {last} is free; choose another")


class ChildServer:
    """`serve run` with the carried model on `port`, writing to the file `log`; what was in it is
    kept as `previous_log`.

    `args` are settings for the builder, as in a Serve configuration; `builder` is another
    application's, as `module:function`, and `checkout` another checkout of this repository to take
    it from. Serve gives a request up after `request_timeout_s`, or one that comes after Ray has
    died would never end.
    """

    def __init__(
        self,
        port: int,
        *,
        log: Path,
        args: Mapping[str, object] | None = None,
        builder: str = BUILDER,
        checkout: Path = _ROOT,
        request_timeout_s: float = 630.0,
    ) -> None:
        self.url = f"http://{HOST}:{port}"
        self.log = log
        self._port = port
        self._builder = builder
        self._checkout = checkout
        self.request_timeout_s = request_timeout_s
        self._args = dict(args or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._family = ProcessFamily()
        self._config: Path | None = None
        self._log_offset = 0

    @property
    def started(self) -> bool:
        """Whether there is anything to stop."""
        return self._child is not None

    @property
    def previous_log(self) -> Path:
        """Where the log of the start before this one is kept."""
        return self.log.with_suffix(f".previous{self.log.suffix}")

    @property
    def shown_command(self) -> list[str]:
        """The command as a user would type it."""
        return ["serve", "run", "--address", "local", self._builder]

    def start(self) -> None:
        """Start the child, in a session of its own: Ctrl-C in the terminal is for the caller."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.previous_log)
        # The plain command knows no time limit, and only one port.
        target = str(self._write_config())
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local", target],
                cwd=self._checkout,
                env=_environment(self._checkout) | self._family.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._family.owns_session(self._child.pid)

    def check_starting(self) -> None:
        """Raises ServerDied when it has ended, or its log says that it will not come up.

        Only until it is ready: from then on the log holds what clients send.
        """
        self.check_running()
        if _FAILED_DEPLOYMENT.search(self._read_new_lines()):
            raise ServerDied("the application could not be deployed")

    def check_running(self) -> None:
        """Raises ServerDied when it has ended."""
        if self._child is None or self._child.poll() is not None:
            raise ServerDied("`serve run` has ended")

    def deploy(self, *overrides: Mapping[str, object]) -> None:
        """Change deployments in place, as `serve deploy` of a changed file: each of `overrides` is
        an entry of `deployments` in a Serve configuration, with its `name`.

        Returns once Serve's controller has it; replicas follow within seconds. Raises ServerDied
        when it is refused, or there is no dashboard to send it to.
        """
        dashboard = _DASHBOARD.search(self._read_log())
        if dashboard is None:
            raise ServerDied("no dashboard has been started, which `serve deploy` needs")
        command = [sys.executable, "-m", "ray.serve.scripts", "deploy", "--address", dashboard[1]]
        done = subprocess.run(
            [*command, str(self._write_config(overrides))],
            cwd=self._checkout,
            env=_environment(self._checkout),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerDied(f"`serve deploy` was refused: {done.stderr[-2000:]}")

    def stop(self) -> None:
        """End the child and whatever it has started; returns when all of it is gone."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_GRACE_S)
        # Most leave by themselves, once they miss their raylet.
        self._family.end()
        self._child.wait()
        if self._config is not None:
            self._config.unlink(missing_ok=True)

    def processes(self) -> list[psutil.Process]:
        """Every process that this server started and that still runs, at whatever remove."""
        return self._family.processes()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log, and after them the first of our own errors in all of it."""
        log = self._read_log()
        cause = _OWN_ERROR.search(log)
        tail = "\n".join(log.splitlines()[-lines:])
        return f"{tail}\n\nCause: {cause[1]}" if cause else tail

    def _read_log(self) -> str:
        try:
            return _COLOUR.sub("", self.log.read_text(errors="replace"))
        except OSError as error:
            return f"(no log: {error.strerror})"

    def _read_new_lines(self) -> str:
        """What the log has gained since the last call, up to its last whole line."""
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._log_offset += len(whole)
        return _COLOUR.sub("", whole.decode(errors="replace"))

    def _write_config(self, overrides: Sequence[Mapping[str, object]] = ()) -> Path:
        """A Serve configuration that differs from the plain command in port, time limit and
        settings alone."""
        application = {
            "name": "default",
            "route_prefix": "/",
            "import_path": self._builder,
            "args": self._args,
            "deployments": [dict(override) for override in overrides],
        }
        config = {
            "http_options": {
                "host": HOST,
                "port": self._port,
                "request_timeout_s": self.request_timeout_s,
            },
            "applications": [application],
        }
        if self._config is None:
            handle, name = tempfile.mkstemp(prefix="sluice-demo-", suffix=".yaml")
            os.close(handle)
            self._config = Path(name)
        self._config.write_text(yaml.safe_dump(config))
        return self._config


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A port in TIME_WAIT can be used again; one that somebody listens on cannot.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _environment(checkout: Path) -> dict[str, str]:
    environment = dict(os.environ)
    # Before whatever is installed, or named there already.
    given = [path] if (path := environment.get("PYTHONPATH")) else []
    environment["PYTHONPATH"] = os.pathsep.join([str(checkout), *given])
    environment.pop("RAY_ADDRESS", None)
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in RAY_SERVE_VARIABLES.items():
        environment.setdefault(name, value)
    # A proxy that died comes back after three missed checks.
    environment.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1")
    # Said aloud, because Ray's default depends on what earlier clusters left in the home folder.
    environment.setdefault("RAY_AUTH_MODE", "token")
    return environment
