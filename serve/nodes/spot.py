"""Notices that a spot machine will be taken away, from the metadata services of AWS and GCP.

Knows nothing of Ray. The services answer on an address of the machine itself, without credentials;
no proxy of the environment may see these requests.
"""

from __future__ import annotations

import time
from datetime import UTC
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple, Protocol

import httpx
from pydantic import AwareDatetime, BaseModel, ValidationError

AMAZON_URL = "http://169.254.169.254"
GOOGLE_URL = "http://metadata.google.internal"

AMAZON_WARNING_S = 120.0
"""From the notice to the end, as AWS promises it; used when a notice does not say when."""
GOOGLE_WARNING_S = 30.0
"""From the notice to the end, as GCP promises it; its notice never says when."""

_TIMEOUT_S = 5.0
_TOKEN_TTL_S = 6 * 3600
_LONG_POLL_S = 5


class MetadataUnavailable(Exception):
    """The metadata service cannot be reached, or its answer is none of those it should give."""


class Notice(NamedTuple):
    """This machine goes, at Unix time `deadline`; None if nobody has said when."""

    reason: str
    deadline: float | None


class Metadata(Protocol):
    """What a cloud says about the machine that asks. Every method may raise MetadataUnavailable."""

    pause_s: float
    """Between two looks for a notice."""

    def is_spot(self) -> bool:
        """Whether this machine can be reclaimed at all."""
        ...

    def notice(self) -> Notice | None:
        """The notice that holds now. May wait some seconds for one."""
        ...


class Cloud(StrEnum):
    """The clouds whose notices are known."""

    AWS = "aws"
    GCP = "gcp"

    def metadata(self, url: str | None = None, *, rebalance: bool = False) -> Metadata:
        """Its metadata service; `rebalance` as in `AmazonMetadata`, `url` is for tests."""
        match self:
            case Cloud.AWS:
                return AmazonMetadata(url or AMAZON_URL, rebalance=rebalance)
            case Cloud.GCP:
                return GoogleMetadata(url or GOOGLE_URL)


class AmazonMetadata:
    """EC2's service, version 2 (IMDSv2). With `rebalance`, its recommendation to leave a machine
    that is at elevated risk counts as a notice without a deadline.
    """

    pause_s = 5.0  # as AWS recommends

    def __init__(self, url: str = AMAZON_URL, *, rebalance: bool = False) -> None:
        self._http = _client(url)
        self._rebalance = rebalance
        self._token: str | None = None

    def is_spot(self) -> bool:
        return self._get("instance-life-cycle") == "spot"

    def notice(self) -> Notice | None:
        action = self._get("spot/instance-action")
        if action is not None:
            return _amazon_notice(action)
        if self._rebalance and self._get("events/recommendations/rebalance") is not None:
            return Notice("AWS recommends to leave this spot instance", None)
        return None

    def _get(self, path: str) -> str | None:
        """One item of the metadata; None where there is none."""
        answer = self._ask(path)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._token = None
            answer = self._ask(path)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        return _text(answer)

    def _ask(self, path: str) -> httpx.Response:
        if self._token is None:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
            self._token = _text(_send(self._http, "PUT", "/latest/api/token", headers=ttl))
        token = {"X-aws-ec2-metadata-token": self._token}
        return _send(self._http, "GET", f"/latest/meta-data/{path}", headers=token)


class GoogleMetadata:
    """Compute Engine's service. `notice` returns at once when there is news, else after seconds."""

    pause_s = 1.0

    def __init__(self, url: str = GOOGLE_URL) -> None:
        self._http = _client(url)
        self._etag = "NONE"

    def is_spot(self) -> bool:
        return _text(self._get("scheduling/preemptible")) == "TRUE"

    def notice(self) -> Notice | None:
        # What has changed since the version `last_etag` is answered at once.
        waiting = {"wait_for_change": "true", "timeout_sec": str(_LONG_POLL_S)}
        answer = self._get("preempted", params={**waiting, "last_etag": self._etag})
        preempted = _text(answer) == "TRUE"
        self._etag = answer.headers.get("ETag", "NONE")
        return (
            Notice("GCP preempts this spot VM", time.time() + GOOGLE_WARNING_S)
            if preempted
            else None
        )

    def _get(self, path: str, params: dict[str, str] | None = None) -> httpx.Response:
        url = f"/computeMetadata/v1/instance/{path}"
        return _send(self._http, "GET", url, headers={"Metadata-Flavor": "Google"}, params=params)


class _InstanceAction(BaseModel):
    action: str
    time: AwareDatetime


def _amazon_notice(body: str) -> Notice:
    """A notice that cannot be read is one all the same."""
    try:
        found = _InstanceAction.model_validate_json(body)
    except ValidationError:
        return Notice("AWS reclaims this spot instance", time.time() + AMAZON_WARNING_S)
    deadline = found.time.astimezone(UTC).timestamp()
    return Notice(f"AWS reclaims this spot instance ({found.action})", deadline)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=_TIMEOUT_S + _LONG_POLL_S, trust_env=False)


def _send(
    http: httpx.Client,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    params: dict[str, str] | None = None,
) -> httpx.Response:
    try:
        return http.request(method, url, headers=headers, params=params)
    except httpx.HTTPError as error:
        raise MetadataUnavailable(f"{http.base_url}: {error}") from error


def _text(answer: httpx.Response) -> str:
    if answer.status_code != HTTPStatus.OK:
        raise MetadataUnavailable(f"{answer.url} answered {answer.status_code}")
    return answer.text.strip()
