"""Prompt rules for a server: checked off the event loop, a prompt at a time.

A short prompt takes a millisecond or two in a thread. A long one could take a tenth of a second,
and as reading it is all Python, a thread would slow the event loop down as long: it goes to a
process of its own. Each has its own queue, so that short ones do not wait for long ones.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pipelines.moderation import PromptRules
from pipelines.moderation.process import RulesProcess

LONG_CHARS = 1500
"""From here on a prompt is read in the other process."""


class PromptCheck:
    """Checks prompts against `rules`; None: all pass. For any event loop."""

    def __init__(self, rules: PromptRules | None) -> None:
        self._rules = rules
        if rules is not None:
            self._process = RulesProcess(rules)
            self._short = ThreadPoolExecutor(1, thread_name_prefix="short-prompts")
            self._long = ThreadPoolExecutor(1, thread_name_prefix="long-prompts")

    async def check(self, text: str, *, param: str) -> None:
        """As `PromptRules.check`. Raises StageFailed too, if it could not be checked."""
        if self._rules is None:
            return
        loop = asyncio.get_running_loop()
        if len(text) < LONG_CHARS:
            found = await loop.run_in_executor(self._short, self._rules.match, text)
        else:
            found = await loop.run_in_executor(self._long, self._process.match, text)
        if found is not None:
            raise self._rules.violation(found, param=param)

    def close(self) -> None:
        """End the threads, and the process if there is one."""
        if self._rules is not None:
            self._short.shutdown(cancel_futures=True)
            self._long.shutdown(cancel_futures=True)
            self._process.close()
