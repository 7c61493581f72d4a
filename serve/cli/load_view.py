"""A server's load as a screen of 80 columns and more. What is not known is "-"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from serve.jobs.job import JobStatus
from serve.load.server_load import DeploymentLoad, ServerLoad
from serve.tracing.views.format import duration, share

_GREY = "bright_black"
_BAR_CHARS = 16
_MAX_DENOISERS = 12
"""Rows, of the busiest; a screen holds no more."""
_CALM = ("HEALTHY",)
_MOVING = ("UPDATING", "UPSCALING", "DOWNSCALING")
_RUNNING = "RUNNING"
_UNKNOWN = "-"


def load_view(load: ServerLoad, *, url: str, fault: str | None = None) -> RenderableType:
    """All of it; `fault` says why it is not of this moment."""
    parts: list[RenderableType] = [_head(load, url)]
    if fault is not None:
        parts.append(Text(f" {fault}", "red"))
    tables = [_deployments(load), _denoisers(load), _counts(load)]
    for table in [*tables, _tenants(load)] if load.tenants else tables:
        parts += [Text(), table]
    return Group(*parts)


def _head(load: ServerLoad, url: str) -> Table:
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(overflow="ellipsis", no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    here = f"{datetime.fromtimestamp(load.at):%H:%M:%S}"
    name = Text.assemble((f" {load.model}", "bold"), (f"  {url}", _GREY))
    head.add_row(name, Text(here, _GREY))
    return head


def _deployments(load: ServerLoad) -> RenderableType:
    if load.deployments is None:
        return _missing("replicas: Serve does not tell of them now")
    table = _table("deployment", "status", "replicas")
    for each in load.deployments:
        table.add_row(each.name, _status(each), _replicas(each.replicas))
    return table


def _status(deployment: DeploymentLoad) -> Text:
    colour = "green" if deployment.status in _CALM else "red"
    if deployment.status in _MOVING:
        colour = "yellow"
    return Text(_words(deployment.status), colour)


def _replicas(states: Mapping[str, int]) -> Text:
    """The running ones first."""
    if not any(states.values()):
        return Text("none, asleep", _GREY)
    ranked = sorted(states.items(), key=lambda item: (item[0] != _RUNNING, item[0]))
    return Text(", ".join(f"{count} {_words(state)}" for state, count in ranked if count))


def _denoisers(load: ServerLoad) -> RenderableType:
    if load.denoisers is None:
        return _missing("queues: no denoiser tells of its own now")
    if not load.denoisers:
        return _missing("queues: no denoiser runs")
    table = _table("denoiser", ">images", ">queue", ">tick", "tokens a tick", "of its knee")
    rest = load.denoisers[_MAX_DENOISERS:]
    if rest:
        queued_s = sum(each.queued_s for each in rest)
        table.caption = f" and {len(rest)} with less to do, {queued_s:.1f} s in all"
        table.caption_justify = "left"
    for each in load.denoisers[:_MAX_DENOISERS]:
        bar, numbers = Text(""), Text("idle", _GREY)
        if each.tick_tokens is not None and each.knee_tokens:
            bar = ProgressBar(
                total=each.knee_tokens,
                completed=min(each.tick_tokens, each.knee_tokens),
                width=_BAR_CHARS,
                complete_style="blue",
                finished_style="green",
            )
            numbers = Text(f"{each.tick_tokens:.0f} of {each.knee_tokens}")
        table.add_row(
            Text(each.replica),
            str(each.images),
            f"{each.queued_s:.1f} s",
            _UNKNOWN if each.tick_s is None else duration(1e9 * each.tick_s),
            bar,
            numbers,
        )
    return table


def _counts(load: ServerLoad) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=_GREY, no_wrap=True)
    table.add_column()
    requests, deadlines = load.requests, load.deadlines
    window = f"in {load.window_s:.0f} s"
    table.add_row(
        " requests",
        f"{requests.per_s:.2f} a second, {requests.images_in_flight} images in flight,"
        f" {load.ingress_replicas} ingress replicas",
    )
    table.add_row("", _tally(requests.outcomes, nothing="none ended", window=window))
    kept = deadlines.met + deadlines.missed
    words = f"{deadlines.met} met, {deadlines.missed} missed, {deadlines.refused} refused {window}"
    table.add_row(" deadlines", words + (f": {share(deadlines.met, kept)} met" if kept else ""))
    table.add_row(" jobs", _UNKNOWN if load.jobs is None else _jobs(load.jobs))
    return table


def _tally(counts: Mapping[str, int], *, nothing: str, window: str) -> str:
    """The most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{count} {_words(name)}" for name, count in ranked)
    return f"{words or nothing} {window}"


def _jobs(jobs: Mapping[str, int]) -> str:
    """In the order of a job's life."""
    return (
        ", ".join(f"{jobs[status]} {status}" for status in JobStatus if jobs.get(status)) or "none"
    )


def _tenants(load: ServerLoad) -> Table:
    table = _table("tenant", ">images in flight", ">jobs waiting", ">jobs running")
    for each in load.tenants:
        table.add_row(
            Text(each.tenant),
            str(each.images_in_flight),
            _UNKNOWN if each.queued_jobs is None else str(each.queued_jobs),
            _UNKNOWN if each.running_jobs is None else str(each.running_jobs),
        )
    return table


def _table(*columns: str) -> Table:
    """Those that begin with ">" are of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for index, name in enumerate(columns):
        justify = "right" if name.startswith(">") else "left"
        overflow = "ellipsis" if index == 0 else "fold"
        table.add_column(name.lstrip(">"), justify=justify, no_wrap=index == 0, overflow=overflow)
    return table


def _missing(text: str) -> Text:
    return Text(f" {text}", _GREY)


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
