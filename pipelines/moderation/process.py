"""Prompt rules in a process of their own: for long prompts, whose reading is all Python.

In a thread it would share the interpreter with whoever asks, whose event loop would be slow as long
as it lasts. The process is started when it is first needed, with the rules as JSON on its standard
input; then each line is a prompt, and each line it answers a verdict. It ends when its input does,
so it cannot outlive who started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from pipelines.errors import StageFailed
from pipelines.moderation.rule_file import RuleFile
from pipelines.moderation.rules import PromptRules, RuleMatch

_PACKAGES = Path(__file__).resolve().parents[2]


class RulesProcess:
    """`PromptRules.match` elsewhere. For any thread; one prompt at a time."""

    def __init__(self, rules: PromptRules) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def match(self, text: str) -> RuleMatch | None:
        """As `PromptRules.match`; blocks, and leaves the interpreter to others meanwhile.

        Raises StageFailed when a second process ends, too, without a verdict on it.
        """
        with self._lock:
            for _ in range(2):
                try:
                    return self._ask(text)
                except (OSError, ValueError):  # it has ended, or its last line was cut short
                    self._end()
        raise StageFailed("the prompt could not be checked", stage="prompt_rules")

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _ask(self, text: str) -> RuleMatch | None:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = self._start()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        _write(self._child.stdin, text)
        answer: list[str] | None = json.loads(self._child.stdout.readline())
        return None if answer is None else RuleMatch(category=answer[0], rule=answer[1])

    def _start(self) -> subprocess.Popen[str]:
        paths = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.moderation.process"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
        )
        assert child.stdin is not None
        _write(child.stdin, self._rules.described())
        return child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):  # what was not sent is lost with the process
                    if pipe is not None:
                        pipe.close()
            self._child.wait()
            self._child = None


def _write(file: Any, content: object) -> None:
    # ASCII: whatever characters a prompt has, and lone surrogates too, are one line.
    file.write(json.dumps(content) + "\n")
    file.flush()


def main() -> None:
    """The process: rules, then prompts, until the input ends."""
    described = json.loads(sys.stdin.readline())
    rules = PromptRules(
        RuleFile.model_validate(described["file"]),
        origin=Path(described["origin"]),
        disabled=described["disabled"],
    )
    for line in sys.stdin:
        found = rules.match(json.loads(line))
        _write(sys.stdout, None if found is None else [found.category, found.rule])


if __name__ == "__main__":
    main()
