"""What a soak sends: requests over every dialect, whose clients may leave or change their mind."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from benchmarks.soaking.following import events_in, follow, watch
from benchmarks.soaking.insistence import AWAY, PAUSE_S, answer_of, failed, insist, leave, submit
from benchmarks.soaking.ledger import USER, Submission, settle
from benchmarks.soaking.vendor_traffic import fal, hugging_face, replicate, replicate_waiting

_COLOURS = ("red", "green", "blue", "yellow", "black", "white")
_SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")

Send = Callable[[httpx.AsyncClient, Submission, random.Random], Awaitable[None]]


def body_of(randomness: random.Random) -> dict[str, Any]:
    """A small request that is decided by its own words alone."""
    colour, shape = randomness.choice(_COLOURS), randomness.choice(_SHAPES)
    return {
        "prompt": f"a {colour} {shape} on a white background",
        "seed": randomness.getrandbits(31),
        "size": randomness.choice(("64x64", "64x96", "128x64")),
        "num_inference_steps": randomness.randint(6, 30),
        "n": randomness.choice((1, 1, 1, 2)),
        "user": USER,
    }


async def synchronous(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """`/v1/images/generations`; one in six clients leaves before the answer."""
    call = http.post(
        "/v1/images/generations", json={**submission.body, "response_format": "b64_json"}
    )
    if randomness.random() < 1 / 6:
        await leave(call, randomness, submission)
        return
    if (answer := await answer_of(call, submission)) is not None:
        submission.images = [base64.b64decode(each["b64_json"]) for each in answer.json()["data"]]
        submission.fate = "succeeded"


async def streamed(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """The same as a stream with previews; one in six clients leaves at its first event."""
    leaves = randomness.random() < 1 / 6
    body = {**submission.body, "stream": True, "partial_images": 2}
    images: dict[int, bytes] = {}
    try:
        async with http.stream("POST", "/v1/images/generations", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                failed(submission, answer)
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line[len("data:") :])
                if "error" in event:
                    submission.fate, submission.reason = "failed", event["error"]["message"]
                    return
                if leaves:
                    submission.fate = "cancelled"
                    return
                if event["type"] == "image_generation.completed":
                    images[event.get("image_index", 0)] = base64.b64decode(event["b64_json"])
    except AWAY as error:
        submission.fate, submission.reason = "failed", f"the server went away: {error!r}"
        return
    if len(images) == submission.body["n"]:
        submission.images = [images[index] for index in sorted(images)]
        submission.fate = "succeeded"
    else:
        submission.fate, submission.reason = "failed", "the stream ended early"


async def job(http: httpx.AsyncClient, submission: Submission, randomness: random.Random) -> None:
    """`/v1/jobs`, whose events are watched for a while or followed to the end; one in eight is
    cancelled, and as many are kept as they are."""
    await submit(http, submission, randomness, "/v1/jobs", _with_webhook(submission))
    if submission.job_id is None:
        return
    path, params = f"/v1/jobs/{submission.job_id}", {"user": USER}
    watching, steering = randomness.random(), randomness.random()
    if watching < 1 / 3:
        await watch(http, submission.job_id, randomness)
    if steering < 1 / 8:
        await insist(lambda: http.post(f"{path}/cancel", params=params))
    elif steering < 1 / 4:
        submission.kept = True
        await insist(lambda: http.post(f"{path}/keep", params=params))
    if watching > 2 / 3:
        await follow(http, submission, randomness)


async def preferring(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """OpenAI's route with `prefer: respond-async`; half of the jobs are followed to the end."""
    await submit(
        http,
        submission,
        randomness,
        "/v1/images/generations",
        _with_webhook(submission),
        headers={"prefer": "respond-async"},
    )
    if submission.job_id is not None and randomness.random() < 1 / 2:
        await follow(http, submission, randomness)


async def end_of(http: httpx.AsyncClient, submission: Submission) -> list[dict[str, Any]]:
    """Wait until a stored job is over, and get its files and all of its stored events."""
    path, params = f"/v1/jobs/{submission.job_id}", {"user": USER}
    while True:
        answer = await insist(lambda: http.get(path, params=params))
        if answer.status_code != 200:
            submission.reason = ""
            return []
        found = answer.json()
        if found["status"] not in ("queued", "running"):
            break
        await asyncio.sleep(PAUSE_S)
    settle(submission, found)
    for output in found["outputs"] if submission.fate == "succeeded" else ():
        url = httpx.URL(output["url"])
        file = await insist(lambda url=url: http.get(url.path))
        submission.images.append(file.content)
    answer = await insist(lambda: http.get(f"{path}/events", params=params))
    return [
        event._asdict()
        async for event in events_in(answer.aiter_lines())
        if event.number is not None
    ]


async def ids_of_all(http: httpx.AsyncClient) -> set[str]:
    """The ids of all stored jobs."""
    found: set[str] = set()
    params = {"user": USER, "limit": "100"}
    while True:
        page = (await insist(lambda: http.get("/v1/jobs", params=params))).json()
        found |= {job["id"] for job in page["data"]}
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


def _with_webhook(submission: Submission) -> dict[str, Any]:
    told = {} if submission.webhook is None else {"webhook_url": submission.webhook}
    return {**submission.body, **told}


SENDS: Mapping[str, Send] = {
    "images": synchronous,
    "stream": streamed,
    "jobs": job,
    "respond-async": preferring,
    "hugging face": hugging_face,
    "fal": fal,
    "replicate": replicate,
    "replicate, waiting": replicate_waiting,
}
