"""A client that does not give up: it asks again where the server is away, and submits under a key.

A stored job that is submitted again under its idempotency key is one job, however often it is sent.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from benchmarks.soaking.ledger import Submission

AWAY = (httpx.TransportError, httpx.StreamError)
PAUSE_S = 0.5

_AGAIN = (429, 502, 503, 504)
_REPLAYED = 1 / 4


async def insist(call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer, be the server away for a while."""
    while True:
        try:
            answer = await call()
        except AWAY:
            await asyncio.sleep(PAUSE_S)
            continue
        if not is_away(answer):
            return answer
        await asyncio.sleep(PAUSE_S)


def is_away(answer: httpx.Response) -> bool:
    """Whether what answers is no server of ours, or one that asks for another try."""
    kind = answer.headers.get("content-type", "")
    # A proxy that found no living replica: no 404 or 500 of ours is in plain text.
    is_proxys_own = answer.status_code in (404, 500) and not kind.startswith("application/json")
    return answer.status_code in _AGAIN or is_proxys_own


async def submit(
    http: httpx.AsyncClient,
    submission: Submission,
    randomness: random.Random,
    path: str,
    body: Mapping[str, Any],
    *,
    id_in: str = "id",
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Mapping[str, Any] | None:
    """Make a stored job, one time in four with the same submit once more; the first answer's body.

    Fills in `job_id`, or the failure with None. `id_in` is the field of the answer with the id.
    """
    keyed = {**(headers or {}), "idempotency-key": uuid.uuid4().hex}

    async def send() -> httpx.Response:
        return await http.post(path, json=dict(body), params=params, headers=keyed)

    answer = await insist(send)
    if not answer.is_success:
        failed(submission, answer)
        return None
    submission.job_id = answer.json()[id_in]
    if randomness.random() < _REPLAYED:
        replay = await insist(send)
        submission.replays += 1
        submission.doubled |= not replay.is_success or replay.json()[id_in] != submission.job_id
    return answer.json()


def failed(submission: Submission, answer: httpx.Response) -> None:
    """The request ended with an error's answer."""
    submission.fate = "failed"
    submission.reason = f"{answer.status_code} {answer.text[:300]}"


async def answer_of(
    call: Awaitable[httpx.Response], submission: Submission
) -> httpx.Response | None:
    """What a request is answered on its own connection; None, and the reason, if with no 200."""
    try:
        answer = await call
    except AWAY as error:
        submission.fate, submission.reason = "failed", f"the server went away: {error!r}"
        return None
    if answer.status_code != 200:
        failed(submission, answer)
        return None
    return answer


async def leave(
    call: Awaitable[httpx.Response], randomness: random.Random, submission: Submission
) -> None:
    """A client that leaves after a moment, and so wants nothing any more."""
    try:
        await asyncio.wait_for(call, randomness.uniform(0.0, 0.3))
    except (TimeoutError, *AWAY):
        pass
    submission.fate = "cancelled"
