"""Everything at once, while parts of the server are killed: nothing is lost, nothing drawn twice.

    python -m benchmarks.soak [--quick] [--seconds 600] [--seed 0] [--save]

Starts the application with `serve run` and a store of jobs of its own, and sends mixed traffic over
all dialects; clients leave, cancel, keep, submit twice under one key, watch and go away, or drop
their stream and resume it; a third of the jobs have a webhook to a receiver of this process. Every
`--kill-every` seconds a denoiser, an ingress or the whole application is killed by SIGKILL, the
last started again on the same store.

When the time is over, every stored job is waited for, and its webhook, and each image compared with
the one that a quiet server draws for the same request: `differing` counts those that are more than
one level of 255 apart. Exits with status 1 if anything was lost, came twice, was told otherwise
than the store tells, or differs, and if there are `strangers`: stored jobs that nobody submitted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from PIL import Image

from benchmarks.report import device_name, print_json, print_table, save_json
from benchmarks.servers import READY_TIMEOUT_S
from benchmarks.soaking.hooks import HookCount, HookReceiver
from benchmarks.soaking.killing import VICTIMS, Resources, Victim, kill
from benchmarks.soaking.ledger import Count, Submission, count, is_misread, is_told_once
from benchmarks.soaking.traffic import SENDS, body_of, end_of, ids_of_all
from deployments.storage.receipt_reading import find_receipt
from serve.cli.client import SluiceClient
from serve.demo.child_server import ChildServer, choose_port

_CLIENTS = 6
_MAX_REQUESTS = 20_000
"""However fast the server is."""
_HAS_WEBHOOK = 1 / 3
_HOOKS_S = 180.0
"""Within which all webhooks come once the jobs are over: after a lease and a few attempts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one minute instead of ten")
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--kill-every", type=float, default=15.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seconds = options.seconds or (60.0 if options.quick else 600.0)
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as folder:
        soak = Soak(Path(folder), random.Random(options.seed))
        try:
            with soak.hooks.listening():
                soak.run(seconds, options.kill_every)
            return _report(soak, save=options.save)
        finally:
            soak.stop()


class Soak:
    """One server and its clients; `submissions`, and what was found to be wrong with them."""

    def __init__(self, folder: Path, randomness: random.Random) -> None:
        self._folder = folder
        self._randomness = randomness
        self._port = choose_port(random.randrange(20_000, 30_000))
        self._server: ChildServer | None = None
        self._secret = f"whsec_{base64.b64encode(randomness.randbytes(32)).decode()}"
        self._warm_ups: list[Submission] = []
        self.hooks = HookReceiver(self._secret, randomness)
        self.submissions: list[Submission] = []
        self.told_twice: set[str] = set()
        self.misread: set[str] = set()
        self.strangers: set[str] = set()
        self.differing = 0
        self.compared = 0
        self.kills: Counter[Victim] = Counter()
        self.before = self.after = Resources()

    def run(self, seconds: float, kill_every: float) -> None:
        """The whole of it; blocks."""
        self._start()
        asyncio.run(self._warm_up())
        self.before = Resources.of(self.server)
        asyncio.run(self._traffic(seconds, kill_every))
        asyncio.run(self._settle())
        self.hooks.wait(self.submissions, _HOOKS_S)
        self.after = Resources.of(self.server)
        asyncio.run(self._compare())

    @property
    def server(self) -> ChildServer:
        assert self._server is not None
        return self._server

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()

    def _start(self) -> None:
        secrets = self._folder / "webhooks.yaml"
        secrets.write_text(yaml.safe_dump({"secret": self._secret}))
        self._server = ChildServer(
            self._port,
            log=self._folder / f"server-{sum(self.kills.values())}.log",
            args={
                "jobs.store": str(self._folder / "jobs.sqlite3"),
                "stages.storage.directory": str(self._folder / "files"),
                "page.enabled": "false",
                "deadlines.default_ms": "none",
                "webhooks.allow": self.hooks.url,
                "webhooks.allow_private": "true",
                "webhooks.secrets_file": str(secrets),
            },
        )
        self._server.start()
        with SluiceClient(self._server.url) as client:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not all((client.readiness() or {"server": False}).values()):
                self._server.check_starting()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not ready after {READY_TIMEOUT_S:g} s")
                time.sleep(0.5)

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=120.0)

    async def _warm_up(self) -> None:
        async with self._http() as http:
            for send in SENDS.values():
                warm = Submission(dialect="", body=body_of(self._randomness))
                self._warm_ups.append(warm)
                await send(http, warm, random.Random(1))

    async def _traffic(self, seconds: float, kill_every: float) -> None:
        until = time.monotonic() + seconds
        async with self._http() as http:
            clients = [self._client(http, until) for _ in range(_CLIENTS)]
            await asyncio.gather(self._killer(until, kill_every), *clients)

    async def _client(self, http: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until and len(self.submissions) < _MAX_REQUESTS:
            dialect = self._randomness.choice(list(SENDS))
            has_webhook = self._randomness.random() < _HAS_WEBHOOK
            submission = Submission(
                dialect=dialect,
                body=body_of(self._randomness),
                webhook=f"{self.hooks.url}/hooks" if has_webhook else None,
            )
            self.submissions.append(submission)
            await SENDS[dialect](http, submission, self._randomness)
            await asyncio.sleep(self._randomness.uniform(0.0, 0.4))

    async def _killer(self, until: float, every: float) -> None:
        for victim in itertools.cycle(VICTIMS):
            await asyncio.sleep(self._randomness.uniform(0.5, 1.5) * every)
            if time.monotonic() + every / 2 > until:
                return
            kill(self.server, victim, self._randomness)
            self.kills[victim] += 1
            if victim == "application":
                self.server.stop()
                await asyncio.to_thread(self._start)

    async def _settle(self) -> None:
        async with self._http() as http:
            for submission in self.submissions:
                if submission.job_id is None:
                    continue
                events = await end_of(http, submission)
                if not is_told_once(events):
                    self.told_twice.add(submission.job_id)
                if is_misread(submission, events):
                    self.misread.add(submission.job_id)
            self.strangers = await ids_of_all(http) - {
                each.job_id for each in (*self._warm_ups, *self.submissions) if each.job_id
            }

    async def _compare(self) -> None:
        async with self._http() as http:
            for submission in self.submissions:
                if submission.fate != "succeeded":
                    continue
                twins: list[bytes] = []
                for body in _bodies_of(submission):
                    twin = Submission(dialect="images", body=body)
                    await SENDS["images"](http, twin, _Steady())
                    twins += twin.images
                self.compared += 1
                self.differing += not _are_equal(submission.images, twins)


def _bodies_of(submission: Submission) -> list[Mapping[str, Any]]:
    """What draws its images again. Where one that was kept stopped is in its file alone."""
    if not submission.kept:
        return [submission.body]
    receipts = [find_receipt(image) for image in submission.images]
    return [receipt.request for receipt in receipts if receipt is not None]


class _Steady(random.Random):
    """For a client that never leaves."""

    def random(self) -> float:
        return 1.0


def _are_equal(images: Sequence[bytes], twins: Sequence[bytes]) -> bool:
    return len(images) == len(twins) and all(
        np.abs(_pixels(one) - _pixels(other)).max() <= 1
        for one, other in zip(images, twins, strict=True)
    )


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _report(soak: Soak, *, save: bool) -> int:
    counted: Count = count(soak.submissions, soak.told_twice, soak.misread)
    hooks: HookCount = soak.hooks.count(soak.submissions)
    print_table(
        f"{counted.submitted} requests, {dict(soak.kills)} killed",
        ["over", *_COLUMNS],
        [_row(dialect, soak.submissions) for dialect in SENDS],
    )
    reasons = Counter(s.reason[:90] for s in soak.submissions if s.fate == "failed")
    print_table("failed because", ["reason", "requests"], reasons.most_common(12))
    roles = sorted(soak.before | soak.after)
    print_table(
        "processes: MiB and descriptors, start and end",
        ["role", "MiB", "MiB at the end", "descriptors", "at the end"],
        [
            (
                role,
                *(round(each.get(role, (0, 0))[0] / 2**20) for each in (soak.before, soak.after)),
                *(each.get(role, (0, 0))[1] for each in (soak.before, soak.after)),
            )
            for role in roles
        ],
    )
    values = {
        **counted._asdict(),
        **{f"hooks_{name}": value for name, value in hooks._asdict().items()},
        "strangers": len(soak.strangers),
        "differing": soak.differing,
        "compared": soak.compared,
        "kills": dict(soak.kills),
        "rss_growth": round(soak.after.rss / max(soak.before.rss, 1) - 1, 3),
    }
    if save:
        print(f"saved {save_json('soak', values, device=device_name())}")
    print_json(values)
    wrong = (
        *(counted.lost, counted.twice, counted.misread),
        *(hooks.missing, hooks.wrong, hooks.unsigned),
        *(len(soak.strangers), soak.differing),
    )
    return int(any(wrong))


_COLUMNS = (
    *("succeeded", "failed", "cancelled"),
    *("webhooks", "replayed", "kept", "followed", "resumed"),
)


def _row(dialect: str, submissions: Sequence[Submission]) -> tuple[str | int, ...]:
    """Of one dialect, as `_COLUMNS` are named."""
    those = [each for each in submissions if each.dialect == dialect]
    fates = Counter(each.fate for each in those)
    return (
        dialect,
        *(fates["succeeded"], fates["failed"], fates["cancelled"]),
        sum(each.webhook is not None and each.job_id is not None for each in those),
        *(sum(each.replays for each in those), sum(each.kept for each in those)),
        sum(each.followed is not None for each in those),
        sum(each.resumed for each in those),
    )


if __name__ == "__main__":
    raise SystemExit(main())
