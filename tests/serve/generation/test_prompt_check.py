"""Prompts are checked off the event loop, after a place was found, and long ones elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pipelines.errors import ContentPolicyViolation
from pipelines.moderation import PromptRules, RuleMatch
from serve.generation.prompt_check import LONG_CHARS, PromptCheck
from tests.serve.conftest import ClientOf
from tests.serve.fakes import FakeGraph, services

URL = "/v1/images/generations"
RULES = PromptRules.load()
LONG = "a r e d . " * (LONG_CHARS // 10) + "   a lot of gore"


@pytest.fixture
def check() -> Iterator[PromptCheck]:
    made = PromptCheck(RULES)
    yield made
    made.close()


@pytest.mark.parametrize("prompt", ["a lot of gore", LONG, "\ud800" + LONG, LONG + "\n\x00\u2028"])
async def test_verdicts_are_the_same_anywhere(check: PromptCheck, prompt: str):
    with pytest.raises(ContentPolicyViolation) as expected:
        RULES.check(prompt, param="prompt")
    with pytest.raises(ContentPolicyViolation) as caught:
        await check.check(prompt, param="prompt")
    assert caught.value.message == expected.value.message
    await check.check(prompt.replace("gore", "fog"), param="prompt")


async def test_other_rules_travel_with_what_is_switched_off():
    check = PromptCheck(PromptRules.load(disabled=["graphic_violence"]))
    try:
        await check.check(LONG, param="prompt")
    finally:
        check.close()


async def test_nothing_is_checked_without_rules():
    check = PromptCheck(None)
    await check.check("a lot of gore", param="prompt")
    check.close()


async def test_a_process_that_died_is_replaced(check: PromptCheck):
    await check.check(LONG.replace("gore", "fog"), param="prompt")
    child = check._process._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(ContentPolicyViolation):
        await check.check(LONG, param="prompt")
    # One that dies while it reads, too.
    assert check._process._child is not None
    os.kill(check._process._child.pid, signal.SIGSTOP)
    asking = asyncio.create_task(check.check(LONG, param="prompt"))
    await asyncio.sleep(0.2)
    os.kill(check._process._child.pid, signal.SIGKILL)
    with pytest.raises(ContentPolicyViolation):
        await asking


async def test_the_process_ends_with_its_input(check: PromptCheck):
    await check.check(LONG.replace("gore", "fog"), param="prompt")
    child = check._process._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    assert await asyncio.to_thread(child.wait, 30) == 0


class Watched(PromptRules):
    """Rules that note who reads how much; each reading waits for `go`."""

    def __init__(self) -> None:
        self.readers: list[str] = []
        self.at_once = self.most_at_once = 0
        self.reads = asyncio.Event()
        self.go = threading.Event()
        self._loop = asyncio.get_running_loop()

    def match(self, text: str) -> RuleMatch | None:
        self.readers.append(threading.current_thread().name)
        self._loop.call_soon_threadsafe(self.reads.set)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(30)
        self.at_once -= 1
        return None


async def test_one_prompt_at_a_time_and_never_on_the_event_loop():
    rules = Watched()
    check = PromptCheck(rules)
    asked = [asyncio.create_task(check.check("a cat", param="prompt")) for _ in range(40)]
    await asyncio.sleep(0)
    rules.go.set()
    await asyncio.gather(*asked)
    check.close()
    assert rules.most_at_once == 1
    assert threading.main_thread().name not in rules.readers
    assert len(rules.readers) == 40


async def test_what_is_refused_is_not_read(client_of: ClientOf):
    """A refusal waits for no prompt of others, and costs none of its own."""
    rules = Watched()
    graph = FakeGraph(hangs=True)
    client = client_of(services(graph, rules=rules, limits={"max_queued_images": 2}))
    inside = [asyncio.create_task(client.post(URL, json={"prompt": "a cat"})) for _ in range(2)]
    await rules.reads.wait()
    refused = [await client.post(URL, json={"prompt": "a cat"}) for _ in range(5)]
    assert [each.status_code for each in refused] == [429] * 5
    assert len(rules.readers) == 1  # the first still is; the second waits for it
    rules.go.set()
    graph.go.set()
    assert [each.status_code for each in await asyncio.gather(*inside)] == [200, 200]
    assert len(rules.readers) == 2


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
async def test_a_prompt_beyond_the_models_bound(client_of: ClientOf, field: str):
    body = {"prompt": "a cat", "true_cfg_scale": 2.0, field: "x" * 8001}
    answer = await client_of(services()).post(URL, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["message"] == f"{field}: at most 8000 characters, got 8001"
    wider = client_of(services(limits={"max_prompt_chars": 9000}))
    assert (await wider.post(URL, json=body)).status_code == 200
