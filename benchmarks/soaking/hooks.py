"""HookReceiver: takes webhooks on this machine, refuses some of them once, and counts."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

from benchmarks.soaking.ledger import FATES, Fate, Submission

_REFUSED = 1 / 5
_VENDOR_STATUSES: Mapping[str, Fate] = {"canceled": "cancelled", "OK": "succeeded"}


class Hook(NamedTuple):
    """One message that was verified."""

    webhook_id: str
    job_id: str
    fate: Fate | None


class HookCount(NamedTuple):
    """`expected`: jobs that are over and named a URL. Of these `missing` had no message, and
    `wrong` had several ids, or a message of another end. `again`: messages that came once more
    under their own id, as they may. `refused` were answered 503 once, and are `missing` unless they
    came again; `unsigned` are of nobody who knows the secret."""

    expected: int
    missing: int
    wrong: int
    again: int
    refused: int
    unsigned: int


class HookReceiver:
    """What has come so far; `url` is where."""

    def __init__(self, secret: str, randomness: random.Random) -> None:
        self._webhook = Webhook(secret)
        self._randomness = randomness
        self._arrived = threading.Condition()
        self._refused: set[str] = set()
        self._hooks: defaultdict[str, list[Hook]] = defaultdict(list)
        self._unsigned = 0
        self.url = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen until the end."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver.take(headers, body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """What comes is counted."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def take(self, headers: Mapping[str, str], body: bytes) -> int:
        """The status that a message is answered with: a fifth of them are refused when they come
        for the first time, and must come again."""
        with self._arrived:
            try:
                self._webhook.verify(body, dict(headers))
            except WebhookVerificationError:
                self._unsigned += 1
                return 401
            hook = hook_of(headers["webhook-id"], json.loads(body))
            is_new = (
                hook not in self._hooks.get(hook.job_id, ())
                and hook.webhook_id not in self._refused
            )
            if is_new and self._randomness.random() < _REFUSED:
                self._refused.add(hook.webhook_id)
                return 503
            self._hooks[hook.job_id].append(hook)
            self._arrived.notify_all()
            return 204

    def wait(self, submissions: Sequence[Submission], timeout_s: float) -> None:
        """Until a message has come for each job that is over and named a URL, or for `timeout_s`;
        blocks."""
        ids = [each.job_id for each in _expected(submissions)]
        with self._arrived:
            self._arrived.wait_for(lambda: all(each in self._hooks for each in ids), timeout_s)

    def count(self, submissions: Sequence[Submission]) -> HookCount:
        """What has come for `submissions`, which are over."""
        expected = _expected(submissions)
        with self._arrived:
            come = {job_id: tuple(hooks) for job_id, hooks in self._hooks.items()}
        return HookCount(
            expected=len(expected),
            missing=sum(each.job_id not in come for each in expected),
            wrong=sum(_is_wrong(come.get(each.job_id, ()), each.fate) for each in expected),
            again=sum(len(come.get(each.job_id, (None,))) - 1 for each in expected),
            refused=len(self._refused),
            unsigned=self._unsigned,
        )


def hook_of(webhook_id: str, said: Mapping[str, Any]) -> Hook:
    """What a message says, in whichever dialect's words."""
    if "data" in said:
        return Hook(webhook_id, said["data"]["id"], FATES.get(said["data"]["status"]))
    status = said["status"]
    if status == "ERROR":
        status = "canceled" if said["error_type"] == "client_cancelled" else "failed"
    fate = _VENDOR_STATUSES.get(status) or FATES.get(status)
    return Hook(webhook_id, said.get("request_id") or said["id"], fate)


class _Expected(NamedTuple):
    job_id: str
    fate: Fate


def _expected(submissions: Sequence[Submission]) -> list[_Expected]:
    return [
        _Expected(each.job_id, each.fate)
        for each in submissions
        if each.webhook is not None and each.job_id is not None and each.fate is not None
    ]


def _is_wrong(hooks: Sequence[Hook], fate: Fate) -> bool:
    return len({hook.webhook_id for hook in hooks}) > 1 or any(hook.fate != fate for hook in hooks)
