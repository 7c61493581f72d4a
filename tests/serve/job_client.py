"""What a client of jobs does with an application that is served."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, NamedTuple

import httpx

BODY = {"prompt": "a red circle on a white background", "seed": 5, "user": "atelier"}
LONG = {**BODY, "size": "512x512", "num_inference_steps": 100, "n": 2}
MINE = {"user": "atelier"}
JOBS = "/v1/jobs"
IMAGES = "/v1/images/generations"


class Event(NamedTuple):
    id: int | None
    data: dict[str, Any]


def submit(client: httpx.Client, body: dict[str, Any]) -> str:
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def events(client: httpx.Client, job_id: str, *, after: int = 0, **params: str) -> Generator[Event]:
    """As they come; the stream may break off at any time. Raises httpx.HTTPError then, and where
    there is none."""
    url, headers = f"{JOBS}/{job_id}/events", {"last-event-id": str(after)}
    with client.stream("GET", url, params={**MINE, **params}, headers=headers) as answer:
        answer.raise_for_status()
        number: int | None = None
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                yield Event(number, json.loads(value))
                number = None


def get(client: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"{JOBS}/{job_id}", params=MINE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def files(client: httpx.Client, job: dict[str, Any]) -> list[bytes]:
    return [client.get(output["url"]).content for output in job["outputs"]]


def quiet_files(client: httpx.Client, body: dict[str, Any]) -> list[bytes]:
    """The same, asked for in the ordinary way."""
    answer = client.post(IMAGES, json={**body, "response_format": "url"})
    assert answer.status_code == 200, answer.text
    return [client.get(image["url"]).content for image in answer.json()["data"]]
