from __future__ import annotations

import functools
import sys
from typing import NamedTuple

import httpx
import pytest
from rich.console import Console, RenderableType

from serve.cli import main as cli
from serve.cli import traces as commands
from serve.cli.client import SluiceClient
from serve.tracing.views.summary import TraceList, summarise
from serve.tracing.views.terminal import trace_view, traces_table
from serve.tracing.views.waterfall import waterfall
from tests.serve.tracing.sample import TRACE_ID, TraceBuilder, others, sample
from tests.serve.tracing.views.test_summary import SUMMARY


def drawn(view: RenderableType, *, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get().splitlines()


def view(width: int, *, ticks: bool = False) -> list[str]:
    otlp = sample()
    found = trace_view(waterfall(otlp), summarise(otlp), width=width, ticks=ticks)
    return drawn(found, width=width)


@pytest.mark.parametrize("width", [60, 80, 140, 300])
def test_rows_are_as_wide_as_the_terminal(width: int):
    lines = view(width)
    assert max(map(len, lines)) <= width
    top = next(line for line in lines if line.startswith("POST"))
    assert top.endswith("─")
    assert len(top) == width


def test_a_bar_begins_where_the_span_does_however_short_it_is():
    lines = view(140)
    respond = next(line for line in lines if line.startswith("  respond") and line.endswith("▕"))
    assert len(respond.rstrip()) == 140
    admit = next(line for line in lines if line.startswith("  admit") and line.rstrip()[-1] == "▎")
    top = next(line for line in lines if line.startswith("POST"))
    assert len(admit.rstrip()) == top.index("─") + 1


def test_errors_and_what_a_stretch_was_shared_with_are_said():
    text = "\n".join(view(140))
    assert "attempt 1 Denoiser lost its replica" in text
    assert "steps 10 to 21, shared with 5 requests" in text
    assert "deadline 12.0 s met" in text


def test_ticks_are_shown_on_demand_with_who_was_in_them():
    assert not [line for line in view(200) if "tick 4" in line]
    lines = view(100, ticks=True)
    (at,) = [n for n, line in enumerate(lines) if "tick 4101" in line]
    assert lines[at + 1].strip() == f"with {others(1367)}"


def test_text_of_others_cannot_steer_the_terminal():
    built = TraceBuilder()
    built.span("evil\x1b[2J\n[red]", 0, 5, error="\x07ring")
    otlp = built.otlp()
    lines = drawn(trace_view(waterfall(otlp), summarise(otlp), width=120), width=120)
    assert not any(letter in line for line in lines for letter in "\x1b\x07")
    assert any("[red]" in line for line in lines)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """The requests that a server got which knows one trace."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if request.url.path == "/traces":
            found = () if request.url.params.get("tenant") == "nobody" else (SUMMARY,)
            return httpx.Response(200, json=TraceList(data=found).as_json())
        if request.url.path == f"/v1/traces/{TRACE_ID}":
            return httpx.Response(200, json=sample())
        if request.url.path == f"/v1/traces/{0:032x}":
            return httpx.Response(200, json={"hello": "world"})
        error = {"message": "trace: not kept here", "code": "trace_not_found"}
        return httpx.Response(404, json={"error": error})

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(
        commands, "SluiceClient", functools.partial(SluiceClient, transport=transport)
    )
    return requests


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run_it(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sluice", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run_it


def test_sluice_trace_draws_it(run, seen: list[httpx.Request]):
    outcome = run("trace", TRACE_ID.upper(), "--url", "http://s")
    assert outcome.code == 0, outcome.err
    assert "denoise.paused" in outcome.out
    assert seen[0].headers["accept"] == "application/json"


def test_sluice_traces_lists_what_is_asked_for(run, seen: list[httpx.Request]):
    outcome = run("traces", "--url", "http://s", "--missed", "--tenant", "atelier")
    assert TRACE_ID in outcome.out
    assert dict(seen[0].url.params) == {"missed": "1", "tenant": "atelier"}
    assert "No trace" in run("traces", "--url", "http://s", "--tenant", "nobody").out


@pytest.mark.parametrize(
    ("trace_id", "says"),
    [
        ("abc", "error: 'abc' is no trace id, which has 32 hexadecimal digits"),
        (f"{1:032x}", "error: trace: not kept here"),
        (f"{0:032x}", "error: http://s is not a Sluice server: not a trace in OTLP's JSON"),
    ],
)
def test_what_goes_wrong_is_one_line(run, seen: list[httpx.Request], trace_id: str, says: str):
    outcome = run("trace", trace_id, "--url", "http://s")
    assert outcome.code == 1
    assert outcome.err.startswith(says)


def test_a_list_in_a_narrow_terminal_keeps_whole_trace_ids():
    assert any(TRACE_ID in line for line in drawn(traces_table([SUMMARY]), width=90))
