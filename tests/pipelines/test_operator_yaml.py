from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.operator_yaml import MAX_CHARS, YamlError, parse, read

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 6, column 5: holds more than 200000 values"),
        (MERGES, "line 6, column 14: holds more than 200000 values"),
        ("a: &a [*a]", "line 1, column 4: holds itself"),
        ("a: &a {b: *a}", "line 1, column 4: holds itself"),
        ("[" * 2000, "is nested more than 50 levels deep"),
        ("- " * 2000, "is nested more than 50 levels deep"),
        ("a: " + "9" * 5000, "line 1, column 4: is a number of more than 40 digits"),
        ("a: 0x" + "f" * 5000, "line 1, column 4: is a number of more than 40 digits"),
        ("a: 1" + ":59" * 5000, "line 1, column 4: is a number of more than 40 digits"),
        ("a: 2026-13-45", "month must be in 1..12"),
        ("a: [", "line 1, column 5: expected the node content"),
        ("a: \x00", "special characters are not allowed"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("#" * (MAX_CHARS + 1), f"has more than {MAX_CHARS} characters"),
    ],
)
def test_what_would_grow_or_break_is_one_line(text: str, said: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < 400


def test_aliases_within_bounds_are_read() -> None:
    text = "base: &base {num_cpus: 2}\nencoder: {<<: *base, dtype: bfloat16}\nvae: *base"
    assert parse(text) == {
        "base": {"num_cpus": 2},
        "encoder": {"num_cpus": 2, "dtype": "bfloat16"},
        "vae": {"num_cpus": 2},
    }


def test_a_file_is_read_as_far_as_it_may_go(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match="has more than"):
        read(Path("/dev/zero"))
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(YamlError, match="can't decode"):
        read(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing")
    assert read(tmp_path / "empty.yaml") is None


def test_a_bomb_costs_no_memory() -> None:
    code = "import sys; from pipelines.operator_yaml import parse; parse(sys.stdin.read())"
    limit = 400 * 2**20

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code], input=BOMB, text=True, capture_output=True, preexec_fn=bound
    )
    assert "YamlError: line 6" in done.stderr
