from __future__ import annotations

import stat
from pathlib import Path

import pytest

from serve.cli.jobs.own_user import own_user


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "sluice" / "user"


def test_a_name_is_made_once_and_kept(kept: Path):
    made = own_user(None)
    assert (made.is_chosen, made.not_kept) == (False, None)
    assert own_user(None) == made
    assert kept.read_text() == f"{made.name}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert list(kept.parent.iterdir()) == [kept]


def test_names_are_not_to_be_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names: set[str] = set()
    for home in ("a", "b"):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / home))
        names.add(own_user(None).name)
    assert len(names) == 2
    assert min(map(len, names)) >= 32


def test_who_says_a_name_has_it(kept: Path, monkeypatch: pytest.MonkeyPatch):
    assert own_user("anna").name == "anna"
    monkeypatch.setenv("SLUICE_CLI_USER", "ben")
    assert own_user(None).name == "ben"
    assert own_user(None).is_chosen
    assert own_user("anna").name == "anna"
    assert not kept.exists()


def test_an_empty_file_is_none(kept: Path):
    kept.parent.mkdir(parents=True)
    kept.write_text("\n")
    made = own_user(None)
    assert made.not_kept is None
    assert kept.read_text() == f"{made.name}\n"


def test_a_folder_that_cannot_be_made_stops_nothing(kept: Path):
    kept.parents[1].write_text("a file where the folder should be")
    made = own_user(None)
    assert made.name
    assert made.not_kept is not None
    assert str(kept.parents[1]) in made.not_kept
    assert own_user(None).name != made.name


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\x00b", b"x" * 300])
def test_what_is_no_name_is_not_used(kept: Path, content: bytes):
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    made = own_user(None)
    assert made.name.startswith("cli-")
    assert made.not_kept
    assert kept.read_bytes() == content


def test_no_home_stops_nothing(monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert own_user(None).not_kept == "Could not determine home directory."
