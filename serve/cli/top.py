"""`sluice top`: a server's load in the terminal, drawn again and again until Ctrl-C."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from serve.cli.client import ServerError, SluiceClient
from serve.cli.load_view import load_view
from serve.load.server_load import ServerLoad

_NOT_FOUND = 404
_PIPE_WIDTH = 100
"""Of what is no terminal, and has no width."""


def top(
    url: Annotated[str, typer.Option(help="The server; may end in /v1.")] = "http://localhost:8000",
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one screen, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one answer as JSON, and end.")
    ] = False,
) -> None:
    """Watch a server's replicas, queues, ticks, jobs and deadlines."""
    with SluiceClient(url) as client:
        load = _read(client)
        if as_json:
            print(load.model_dump_json())
        elif once or not sys.stdout.isatty():
            width = None if sys.stdout.isatty() else _PIPE_WIDTH
            Console(width=width).print(load_view(load, url=client.base_url))
        else:
            _watch(client, load, every_s=every)


def _watch(client: SluiceClient, load: ServerLoad, *, every_s: float) -> None:
    """Until Ctrl-C, which is how one leaves: no error."""
    fault = None
    try:
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                view = load_view(load, url=client.base_url, fault=fault)
                live.update(view, refresh=True)
                time.sleep(every_s)
                try:
                    load, fault = _read(client), None
                except ServerError as error:
                    fault = str(error)
    except KeyboardInterrupt:
        return


def _read(client: SluiceClient) -> ServerLoad:
    try:
        return client.load()
    except ServerError as error:
        if error.status != _NOT_FOUND:
            raise
        raise ServerError(
            f"{client.base_url} tells nobody of its load: metrics.load is off there, or it is older"
            " than this command"
        ) from error
