"""Readers of a job's events: one that goes away, and one that drops its connection and resumes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

import httpx

from benchmarks.soaking.insistence import AWAY, PAUSE_S, is_away
from benchmarks.soaking.ledger import FINAL_EVENTS, USER, Submission


class StreamEvent(NamedTuple):
    """One event as it came; previews have no `number`."""

    number: int | None
    type: str
    data: Any


async def watch(http: httpx.AsyncClient, job_id: str, randomness: random.Random) -> None:
    """Some of a job's events with its previews, by a client that then goes away."""
    left = randomness.randint(1, 12)
    params = {"user": USER, "previews": "1"}
    try:
        async with (
            http.stream("GET", f"/v1/jobs/{job_id}/events", params=params) as answer,
            aclosing(events_in(answer.aiter_lines())) as events,
        ):
            async for _ in events:
                left -= 1
                if left == 0:
                    return
    except AWAY:
        return


async def follow(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """All of a job's events up to its end, by a client that drops its connection after a few of
    them, again and again, and goes on after the last one that it has had: `submission.followed`.
    """
    seen: list[int] = []
    is_over = False
    while not is_over:
        if submission.resumed or seen:
            await asyncio.sleep(randomness.uniform(0.0, PAUSE_S))
        try:
            answered = await _read_on(http, submission, seen, randomness.randint(1, 6))
        except AWAY:
            continue
        finally:
            submission.resumed += 1
        if answered is None:
            return
        is_over = answered
    submission.resumed -= 1
    submission.followed = seen


async def _read_on(
    http: httpx.AsyncClient, submission: Submission, seen: list[int], at_most: int
) -> bool | None:
    """Add to the numbers of stored events those of one connection; whether the last was the end.
    None where there is no such stream."""
    async with http.stream(
        "GET",
        f"/v1/jobs/{submission.job_id}/events",
        params={"user": USER},
        headers={"last-event-id": str(seen[-1])} if seen else {},
    ) as answer:
        if answer.status_code != 200:
            await answer.aread()
            if is_away(answer):
                await asyncio.sleep(PAUSE_S)
                return False
            submission.followed = [-answer.status_code]
            return None
        async with aclosing(events_in(answer.aiter_lines())) as events:
            async for event in events:
                if event.number is not None:
                    seen.append(event.number)
                    at_most -= 1
                if event.type in FINAL_EVENTS:
                    return True
                if at_most == 0:
                    return False
    return False


async def events_in(lines: AsyncIterator[str]) -> AsyncGenerator[StreamEvent]:
    """Each event once it is whole: an empty line ends it, and what is cut off before is none."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            number = fields.get("id")
            yield StreamEvent(
                None if number is None else int(number),
                fields.get("event", "message"),
                json.loads(fields["data"]),
            )
        fields = {}
