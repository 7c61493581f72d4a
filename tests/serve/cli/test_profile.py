from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.profiling import TickProfile, chosen
from deployments.replica_load import ReplicaLoad
from pipelines.engine.observe.profiling import ProfileRequest
from pipelines.errors import ConfigurationError, RequestTimeout
from serve.cli import main as cli
from tests.cluster import free_port
from tests.serve.cli.test_profile_summary import ON_A_GPU, TWO_TICKS, packed

LOADS = [
    ReplicaLoad(replica="busy1", works=3, queued_s=4.5),
    ReplicaLoad(replica="idle2", works=0, queued_s=0.0),
]


class FakeDenoisers:
    """Replicas of an application, as `deployments.profiling.Denoisers` finds them."""

    def __init__(self) -> None:
        self.joined: list[str] = []
        self.applications: list[str] = []
        self.asked: list[tuple[str, ProfileRequest]] = []
        self.trace = packed(*TWO_TICKS)
        self.ranks = 1
        self.error: Exception | None = None

    @contextmanager
    def join(self, address: str) -> Generator[None]:
        self.joined.append(address)
        yield

    def of(self, application: str) -> FakeDenoisers:
        self.applications.append(application)
        return self

    def loads(self) -> list[ReplicaLoad]:
        return LOADS

    def profile(self, replica: str, request: ProfileRequest) -> TickProfile:
        self.asked.append((replica, request))
        if self.error is not None:
            raise self.error
        return TickProfile(replica=replica, ticks=2, ranks=self.ranks, trace=self.trace)


@pytest.fixture
def denoisers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDenoisers:
    fake = FakeDenoisers()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deployments.profiling.Denoisers", fake)
    monkeypatch.setattr("serve.nodes.ray_driver.joined", fake.join)
    return fake


@pytest.fixture
def profile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], denoisers: FakeDenoisers
):
    """Runs `sluice profile` with arguments in an empty folder: exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sluice", "profile", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_busiest_is_profiled_and_the_file_saved(profile, denoisers: FakeDenoisers):
    code, out, err = profile("--ticks", "2")
    assert (code, err) == (0, "")
    assert denoisers.asked == [("busy1", ProfileRequest(ticks=2))]
    assert (denoisers.joined, denoisers.applications) == (["auto"], ["default"])
    assert Path("profile.json.gz").read_bytes() == denoisers.trace
    assert "replica busy1 (3 images, 4.5 s of work; 1 other replicas)" in out
    assert "2 ticks of 0.1 ms on average" in out
    assert "profile.json.gz" in out
    assert "https://ui.perfetto.dev" in out


def test_the_table_has_the_means_of_a_tick(profile, denoisers: FakeDenoisers):
    denoisers.trace = packed(*TWO_TICKS, *ON_A_GPU)
    _, out, _ = profile()
    (row,) = [line for line in out.splitlines() if "aten::addmm" in line]
    assert row.split() == ["aten::addmm", "1", "0.01", "0.13"]


def test_every_option_is_used(profile, denoisers: FakeDenoisers):
    code, _, err = profile(
        *("--address", "10.0.0.1:6379", "--app", "other", "--ticks", "50", "--timeout", "5"),
        *("--replica", "idle2", "--shapes", "--stacks", "-o", "new/p.json.gz"),
    )
    assert code == 0, err
    assert (denoisers.joined, denoisers.applications) == (["10.0.0.1:6379"], ["other"])
    request = ProfileRequest(ticks=50, timeout_s=5, with_shapes=True, with_stack=True)
    assert denoisers.asked == [("idle2", request)]
    assert Path("new/p.json.gz").read_bytes() == denoisers.trace


def test_replicas_are_listed(profile, denoisers: FakeDenoisers):
    code, out, _ = profile("--list")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert rows[-2:] == [["busy1", "3", "4.5"], ["idle2", "0", "0.0"]]
    assert denoisers.asked == []


def test_fewer_ticks_than_asked_for_and_other_ranks_are_said(profile, denoisers: FakeDenoisers):
    denoisers.ranks = 4
    _, out, _ = profile("--ticks", "9")
    assert "9 were asked for: no more came in time" in out
    assert "rank 0 of 4" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ticks", "0"], "ticks: must be 1 to 50"),
        (["--timeout", "0"], "timeout_s: must be above 0"),
        (["--replica", "gone"], "no replica is called 'gone'; there are: busy1, idle2"),
        (["-o", "p.json"], "must end in .json.gz"),
        (["-o", "old.json.gz"], "add --overwrite"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_recorded(
    profile, denoisers: FakeDenoisers, arguments: list[str], said: str
):
    Path("old.json.gz").write_bytes(b"old")
    code, _, err = profile(*arguments)
    assert code == 1
    assert said in " ".join(err.split())
    assert denoisers.asked == []
    assert Path("old.json.gz").read_bytes() == b"old"


def test_a_file_is_replaced_if_asked_for(profile, denoisers: FakeDenoisers):
    Path("old.json.gz").write_bytes(b"old")
    assert profile("-o", "old.json.gz", "--overwrite")[0] == 0
    assert Path("old.json.gz").read_bytes() == denoisers.trace


def test_no_tick_in_time_is_one_line(profile, denoisers: FakeDenoisers):
    denoisers.error = RequestTimeout("no tick came within 60 s: profile while images are drawn")
    code, _, err = profile()
    assert code == 1
    assert err.startswith("error: no tick came within 60 s")
    assert not Path("profile.json.gz").exists()


def test_a_cluster_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sluice", "profile", "--address", address])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"--address: no Ray cluster at {address}" in capsys.readouterr().err


def test_the_first_of_the_loads_is_chosen_unless_one_is_named():
    assert chosen(LOADS, None) is LOADS[0]
    assert chosen(LOADS, "idle2") is LOADS[1]
    with pytest.raises(ConfigurationError, match="busy1, idle2"):
        chosen(LOADS, "")
