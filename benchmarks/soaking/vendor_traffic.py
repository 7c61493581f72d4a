"""Requests in the words of Hugging Face, fal and Replicate, as their own clients send them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import httpx

from benchmarks.soaking.insistence import PAUSE_S, answer_of, failed, insist, leave, submit
from benchmarks.soaking.ledger import USER, Fate, Submission

_MODEL = "sluice/sluice-shapes"
_OWN = {"x-sluice-user": USER}
_LEAVES = 1 / 6
_CANCELS = 1 / 8
_GOES_AWAY = 1 / 3

_PREDICTIONS: Mapping[str, Fate] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "cancelled",
}


async def hugging_face(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """`/hf/text-to-image`, which answers with the image itself, also those who prefer otherwise:
    nothing of this task is stored. One in six clients leaves before the answer."""
    submission.body = {**submission.body, "n": 1}
    parameters = {name: value for name, value in submission.body.items() if name != "prompt"}
    call = http.post(
        "/hf/text-to-image",
        json={"inputs": submission.body["prompt"], "parameters": parameters},
        headers={"prefer": "respond-async"} if randomness.random() < 1 / 2 else {},
    )
    if randomness.random() < _LEAVES:
        await leave(call, randomness, submission)
        return
    if (answer := await answer_of(call, submission)) is None:
        return
    if not answer.headers["content-type"].startswith("image/"):
        failed(submission, answer)
        return
    submission.images, submission.fate = [answer.content], "succeeded"


async def fal(http: httpx.AsyncClient, submission: Submission, randomness: random.Random) -> None:
    """fal's queue: submit, ask for the status until it is over, get the result; one in eight is
    cancelled, and some clients never ask again."""
    width, height = map(int, submission.body["size"].split("x"))
    arguments = {name: submission.body[name] for name in ("prompt", "seed", "num_inference_steps")}
    queued = await submit(
        http,
        submission,
        randomness,
        f"/fal/{_MODEL}",
        {
            **arguments,
            "image_size": {"width": width, "height": height},
            "num_images": submission.body["n"],
        },
        id_in="request_id",
        params=None if submission.webhook is None else {"fal_webhook": submission.webhook},
        headers=_OWN,
    )
    if queued is None:
        return
    if randomness.random() < _CANCELS:
        cancel = _path(queued["cancel_url"])
        await insist(lambda: http.put(cancel, headers=_OWN))
    if randomness.random() < _GOES_AWAY:
        return
    status = await _fal_end(http, _path(queued["status_url"]))
    result = await insist(lambda: http.get(_path(queued["response_url"]), headers=_OWN))
    submission.shown = _fal_fate(status, result, submission)
    submission.misled = submission.shown is None


async def _fal_end(http: httpx.AsyncClient, path: str) -> httpx.Response:
    """The status that is the last: 200, where the others are 202."""
    while True:
        answer = await insist(lambda: http.get(path, params={"logs": "1"}, headers=_OWN))
        if answer.status_code != 202:
            return answer
        await asyncio.sleep(PAUSE_S)


def _fal_fate(
    status: httpx.Response, result: httpx.Response, submission: Submission
) -> Fate | None:
    """How a request ended, by its last status and by its result; None where they disagree."""
    if status.status_code != 200 or status.json()["status"] != "COMPLETED":
        return None
    if result.status_code == 200:
        shown = result.json()
        is_whole = len(shown["images"]) == submission.body["n"]
        is_its_own = shown["seed"] == submission.body["seed"]
        is_good = is_whole and is_its_own and status.json()["error"] is None
        return "succeeded" if is_good else None
    kinds: Mapping[str, Fate] = {"client_cancelled": "cancelled"}
    return kinds.get(status.json()["error_type"], "failed")


async def replicate(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """Replicate's predictions: made, and asked for until they are over; one in eight is
    cancelled, and some clients never ask again."""
    await _predict(http, submission, randomness, headers=_OWN)


async def replicate_waiting(
    http: httpx.AsyncClient, submission: Submission, randomness: random.Random
) -> None:
    """The same with `prefer: wait`, whose answer may be the end."""
    wait = randomness.choice(("wait", "wait=1", "wait=5"))
    await _predict(http, submission, randomness, headers={**_OWN, "prefer": wait})


async def _predict(
    http: httpx.AsyncClient,
    submission: Submission,
    randomness: random.Random,
    *,
    headers: Mapping[str, str],
) -> None:
    body: dict[str, Any] = {"version": _MODEL, "input": _input(submission.body)}
    if submission.webhook is not None:
        body |= {"webhook": submission.webhook, "webhook_events_filter": ["completed"]}
    prediction = await submit(
        http, submission, randomness, "/v1/predictions", body, headers=headers
    )
    if prediction is None:
        return
    path = f"/v1/predictions/{prediction['id']}"
    if randomness.random() < _CANCELS:
        await insist(lambda: http.post(f"{path}/cancel", headers=_OWN))
    elif prediction["status"] == "processing" and "prefer" in headers:
        # The client takes whatever is not `starting` for the end of what it waited for.
        submission.misled = True
    if randomness.random() < _GOES_AWAY:
        return
    while prediction["status"] not in _PREDICTIONS:
        await asyncio.sleep(PAUSE_S)
        answer = await insist(lambda: http.get(path, headers=_OWN))
        if answer.status_code != 200:
            submission.misled = True
            return
        prediction = answer.json()
    submission.shown = _PREDICTIONS[prediction["status"]]


def _input(body: Mapping[str, Any]) -> dict[str, Any]:
    """As Replicate's clients write it."""
    width, height = map(int, body["size"].split("x"))
    return {
        "prompt": body["prompt"],
        "seed": body["seed"],
        "width": width,
        "height": height,
        "num_inference_steps": body["num_inference_steps"],
        "num_outputs": body["n"],
    }


def _path(url: str) -> str:
    """Of a link, which has the address that the server thinks it has."""
    return httpx.URL(url).path
